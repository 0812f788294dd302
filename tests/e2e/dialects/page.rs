//! `docs/reference/dialects/NAME.md`: every verdict with the response recorded in this run.
//!
//! With `KEYWARD_DOCS=write` the pages are written; otherwise a page that differs from the run fails.

use super::cases::Case;
use super::table::Subject;
use keyward_harness::Response;
use keyward_harness::artifacts;
use std::fmt::Write as _;
use std::{env, fs};

/// The fixed value for every request id.
const REQUEST_ID: &str = "0b5e2c1e-8a51-9f6e-a5f1-3d0c6f1c9a77";

/// A page that is assembled during the run.
pub(crate) struct Page {
    name: &'static str,
    text: String,
}

impl Page {
    pub(crate) fn begin(name: &'static str, introduction: &str) -> Self {
        let note = "*Generated: each response was recorded from a real gateway, and `tests/e2e/dialects` compares this \
            page with it. Values that differ between runs (ids, seconds) are replaced by fixed ones, and keys are \
            shortened.*";
        let text = format!("# {name}\n\n{}\n\n{}\n", wrapped(introduction), wrapped(note));
        Self { name, text }
    }

    pub(crate) fn section(&mut self, subject: &Subject) {
        let _ = write!(self.text, "\n## {}\n", subject.title);
        if !subject.rules.is_empty() {
            let _ =
                write!(self.text, "\nWith these rules before the shipped ones:\n\n```json\n{}\n```\n", subject.rules);
        }
    }

    /// One verdict with its response; the `credential` is shortened.
    pub(crate) fn verdict(&mut self, case: &Case, credential: &str, answer: &Response) {
        let header = match credential {
            "" => String::new(),
            credential => format!("-H 'Authorization: Bearer {}' ", shortened(credential)),
        };
        let status = reason(answer.status);
        let _ = write!(
            self.text,
            "\n### `{}`\n\n```console\n$ curl -i {header}http://localhost:8080{}\nHTTP/1.1 {} {status}\n",
            case.verdict, case.path, answer.status
        );
        for (name, value) in &answer.headers {
            let value = String::from_utf8_lossy(value);
            // Fields that Envoy adds to every response.
            if !["date", "server", "content-length"].contains(&name.as_str()) {
                let value =
                    if name.ends_with("request-id") { REQUEST_ID.into() } else { fixed_seconds(case, name, &value) };
                let _ = writeln!(self.text, "{name}: {value}");
            }
        }
        let body = case.body.replace("{request_id}", REQUEST_ID);
        let seconds = if case.verdict == "rate_limited" { "60" } else { "1" };
        let _ = write!(self.text, "\n{}\n```\n", body.replace("{retry_after}", seconds));
    }

    /// The identity that the upstream receives with an allowed request.
    pub(crate) fn allowed(&mut self, path: &str, credential: &str, identity: &[(String, String)]) {
        let credential = shortened(credential);
        let _ = write!(
            self.text,
            "\n### `allow`\n\n```console\n$ curl -i -H 'Authorization: Bearer {credential}' http://localhost:8080{path}\n\
             HTTP/1.1 200 OK\n```\n\nThe upstream gets the request without the key, and with these headers:\n\n```http\n"
        );
        for (name, value) in identity {
            let _ = writeln!(self.text, "{name}: {value}");
        }
        self.text.push_str("```\n");
    }

    #[track_caller]
    pub(crate) fn finish(self) {
        let file = artifacts::root().join(format!("docs/reference/dialects/{}.md", self.name));
        if env::var_os("KEYWARD_DOCS").is_some_and(|value| value == "write") {
            fs::write(&file, self.text).unwrap();
            return;
        }
        let there = fs::read_to_string(&file).unwrap_or_default();
        let differing = there.lines().zip(self.text.lines()).find(|(there, now)| there != now);
        assert!(
            there == self.text,
            "docs/reference/dialects/{}.md is stale, first at {differing:?}; set KEYWARD_DOCS=write to update the page",
            self.name
        );
    }
}

/// Wraps text at 100 characters.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= 100 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

/// The prefix and some characters, as in lists of keys.
fn shortened(credential: &str) -> String {
    if credential.len() < 16 {
        return credential.to_owned();
    }
    credential.chars().take(16).collect::<String>() + "…"
}

/// The seconds of a window that has just started.
fn fixed_seconds(case: &Case, name: &str, value: &str) -> String {
    match (case.verdict, name) {
        ("rate_limited", "retry-after") => "60".to_owned(),
        ("rate_limited", "ratelimit") => {
            value.rsplit_once(";t=").map_or_else(|| value.to_owned(), |(before, _)| format!("{before};t=60"))
        }
        _ => value.to_owned(),
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        429 => "Too Many Requests",
        _ => "Service Unavailable",
    }
}
