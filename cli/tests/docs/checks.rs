//! The checks. Each returns what is wrong, so that the tests can give it pages with mistakes.

use crate::markdown::Page;
use crate::shell;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};
use keyward_cli::Arguments;
use keyward_core::refusal::Refusal;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The repository as far as documentation can name it.
#[derive(Default)]
struct Repository {
    /// The pages, by path: *.md at the top level, and everything below docs/.
    pages: BTreeMap<String, Page>,
    /// The paths of all files and directories.
    paths: BTreeSet<String>,
    /// Every `KEYWARD_…` in a file that is not documentation.
    variables: BTreeSet<String>,
    /// Every `keyward_…` in src/host/metrics.rs.
    metrics: BTreeSet<String>,
    /// The targets of the Makefile.
    targets: BTreeSet<String>,
}

/// Directories that are not of the repository.
const OTHERS: [&str; 4] = [".git", ".keyward", "node_modules", "target"];

impl Repository {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut repository = Self::default();
        repository.walk(&root, "");
        repository
    }

    fn walk(&mut self, directory: &Path, prefix: &str) {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{prefix}{name}");
            if OTHERS.contains(&name.as_str()) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                self.walk(&entry.path(), &format!("{path}/"));
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                self.take(&path, &text);
            }
            self.paths.insert(path);
        }
    }

    fn take(&mut self, path: &str, text: &str) {
        match path {
            "Makefile" => self.targets = targets(text),
            "src/host/metrics.rs" => self.metrics = words(text, "keyward_", |c| c.is_ascii_lowercase()),
            _ => {}
        }
        if path.ends_with(".md") && (!path.contains('/') || path.starts_with("docs/")) {
            self.pages.insert(path.to_owned(), Page::parse(text));
        } else if !path.starts_with("cli/tests/docs/") {
            self.variables.extend(variables(text));
        }
    }

    fn check(&self, check: impl Fn(&Self, &str, &Page) -> Vec<String>) -> Vec<String> {
        let problems = self.pages.iter().flat_map(|(path, page)| {
            check(self, path, page).into_iter().map(move |problem| format!("{path}: {problem}"))
        });
        problems.collect()
    }
}

fn targets(makefile: &str) -> BTreeSet<String> {
    let rules = makefile.lines().filter_map(|line| line.split_once(':')).filter(|(_, rest)| !rest.starts_with('='));
    rules
        .filter(|(names, _)| !names.starts_with(['.', '\t']))
        .flat_map(|(names, _)| names.split(' '))
        .map(str::to_owned)
        .collect()
}

/// The words in a text that begin with a prefix and go on with such characters or `_`.
fn words(text: &str, prefix: &str, is_of_word: fn(&char) -> bool) -> BTreeSet<String> {
    let end = |rest: &str| rest.find(|c| !(is_of_word(&c) || c == '_')).unwrap_or(rest.len());
    let rest = text.match_indices(prefix).map(|(at, _)| &text[at..]);
    rest.map(|rest| rest[..prefix.len() + end(&rest[prefix.len()..])].to_owned()).collect()
}

fn variables(text: &str) -> BTreeSet<String> {
    words(text, "KEYWARD_", char::is_ascii_uppercase)
}

fn links(repository: &Repository, path: &str, page: &Page) -> Vec<String> {
    let is_external = |link: &&String| ["http://", "https://", "mailto:"].iter().any(|scheme| link.starts_with(scheme));
    let problem = |link: &String| {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = if file.is_empty() { path.to_owned() } else { resolved(path, file)? };
        if !repository.paths.contains(&target) {
            return Some(format!("the link {link} has no target"));
        }
        let page = repository.pages.get(&target)?;
        let is_missing = !(anchor.is_empty() || page.anchors.contains(anchor));
        is_missing.then(|| format!("the link {link} has no heading"))
    };
    page.links.iter().filter(|link| !is_external(link)).filter_map(problem).collect()
}

/// The path in the repository of a link on a page.
fn resolved(page: &str, link: &str) -> Option<String> {
    let mut path = PathBuf::new();
    for component in Path::new(page).parent()?.join(link).components() {
        match component {
            Component::ParentDir => drop(path.pop()),
            component => path.push(component),
        }
    }
    path.to_str().map(str::to_owned)
}

/// The commands of a page, each with whether it is complete: a span can name a command without its arguments.
fn commands(page: &Page) -> Vec<(Vec<String>, bool)> {
    let blocks = page.blocks.iter().flat_map(|block| shell::of_block(block)).map(|words| (words, true));
    let spans = page.spans.iter().flat_map(|span| {
        // `[--from TIME]` is an argument that can be left out.
        let span = span.replace(['[', ']'], "");
        shell::of_line(&span.replace('|', "\u{0}")).into_iter().flat_map(alternatives).map(|words| (words, false))
    });
    blocks.chain(spans).collect()
}

/// A command for each of `a|b|c`, of which at most one word of a command consists; the bar came as a NUL.
fn alternatives(words: Vec<String>) -> Vec<Vec<String>> {
    let Some(at) = words.iter().position(|word| word.contains('\u{0}')) else { return vec![words] };
    let with = |word: &str| {
        let mut words = words.clone();
        word.clone_into(&mut words[at]);
        words
    };
    words[at].split('\u{0}').map(with).collect()
}

fn command_lines(_: &Repository, _: &str, page: &Page) -> Vec<String> {
    let problem = |(words, is_complete): (Vec<String>, bool)| {
        let [program, rest @ ..] = &*words else { return None };
        // `keyward COMMAND` stands for every command.
        if program.rsplit('/').next() != Some("keyward") || rest.first().is_none_or(|word| word == "COMMAND") {
            return None;
        }
        let parsed = Arguments::try_parse_from(["keyward"].into_iter().chain(rest.iter().map(|word| value(word))));
        let error = parsed.err().filter(|error| !is_accepted(error, is_complete))?;
        Some(format!("`{}`: {}", words.join(" "), error.to_string().lines().next().unwrap_or_default()))
    };
    commands(page).into_iter().filter_map(problem).collect()
}

/// A value in place of a placeholder whose value is parsed; those of other arguments are values themselves.
fn value(word: &str) -> &str {
    match word {
        "N" => "1",
        "DURATION" => "1h",
        "SHELL" => "bash",
        "HOST:PORT" => "127.0.0.1:8081",
        "CIDR" => "10.0.0.0/8",
        other => other,
    }
}

fn is_accepted(error: &clap::Error, is_complete: bool) -> bool {
    let is_without_value =
        || matches!(error.get(ContextKind::InvalidValue), Some(ContextValue::String(value)) if value.is_empty());
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => !is_complete,
        ErrorKind::InvalidValue => !is_complete && is_without_value(),
        _ => false,
    }
}

/// The options in the tables of the page that has them all.
fn options(_: &Repository, path: &str, page: &Page) -> Vec<String> {
    fn of(command: &clap::Command) -> Vec<String> {
        let own = command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned);
        own.chain(command.get_subcommands().flat_map(of)).collect()
    }
    if path != "docs/reference/command-line.md" {
        return Vec::new();
    }
    let known = of(&Arguments::command());
    let named = page.spans.iter().filter_map(|span| span.strip_prefix("--")?.split([' ', '=']).next());
    let unknown = named.filter(|name| !known.iter().any(|known| known == name));
    unknown.map(|name| format!("no command has the option --{name}")).collect()
}

fn make_targets(repository: &Repository, _: &str, page: &Page) -> Vec<String> {
    let of_make = commands(page).into_iter().filter(|(words, _)| words[0] == "make").flat_map(|(words, _)| words);
    let named = of_make.skip(1).filter(|word| word != "make" && !word.contains('='));
    named
        .filter(|name| !repository.targets.contains(name))
        .map(|name| format!("the Makefile has no target {name}"))
        .collect()
}

fn environment(repository: &Repository, _: &str, page: &Page) -> Vec<String> {
    let unknown = variables(&page.text).into_iter().filter(|name| !repository.variables.contains(name));
    unknown.map(|name| format!("no code has the variable {name}")).collect()
}

/// Paths below a directory of the top level, or the end of the path of a source file, such as `store/tail.rs`.
fn source_paths(repository: &Repository, _: &str, page: &Page) -> Vec<String> {
    let is_path = |span: &&String| span.chars().all(|c| c.is_ascii_alphanumeric() || "/._-*".contains(c));
    let problem = |span: &String| {
        // `NAME.json` and `*.json` stand for every file of a directory.
        let fixed = span.split(['*']).next()?.split("NAME").next()?;
        let fixed = if fixed.len() < span.len() { fixed.rsplit_once('/')?.0 } else { fixed.trim_end_matches('/') };
        let top = fixed.split('/').next()?;
        let is_of_repository = span.contains('/') && !top.starts_with('.') && repository.paths.contains(top);
        let is_source = span.ends_with(".rs") && !top.is_empty();
        let exists = if is_of_repository {
            repository.paths.contains(fixed)
        } else {
            !is_source || repository.paths.iter().any(|path| path.ends_with(&format!("/{fixed}")))
        };
        (!exists).then(|| format!("there is no {span}"))
    };
    page.spans.iter().filter(is_path).filter_map(problem).collect()
}

/// Names with the prefix of metrics that are none: the file of the Debian package, modules, Envoy's clusters and filters, and
/// a key of its metadata.
const NOT_METRICS: [&str; 7] = [
    "keyward_",
    "keyward_control_plane",
    "keyward_filter",
    "keyward_filter_response_headers",
    "keyward_guard",
    "keyward_owner",
    "keyward_self_service",
];
/// There is a counter for each verdict.
const BY_VERDICT: &str = "keyward_requests_";

fn metrics(repository: &Repository, _: &str, page: &Page) -> Vec<String> {
    let verdicts = || ["allow", "public", "delegated", ""].into_iter().chain(Refusal::ALL.map(Refusal::name));
    let is_known = |name: &String| match name.strip_prefix(BY_VERDICT) {
        Some(verdict) => repository.metrics.contains(BY_VERDICT) && verdicts().any(|known| known == verdict),
        None => repository.metrics.contains(name) || NOT_METRICS.contains(&name.as_str()),
    };
    let named = words(&page.text, "keyward_", char::is_ascii_lowercase).into_iter();
    named.filter(|name| !is_known(name)).map(|name| format!("there is no metric {name}")).collect()
}

fn assert_right(check: impl Fn(&Repository, &str, &Page) -> Vec<String>) {
    let repository = Repository::read();
    assert!(repository.pages.len() > 40, "the pages are found");
    let problems = repository.check(check);
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn links_have_targets() {
    assert_right(links);
}

#[test]
fn commands_parse() {
    assert_right(command_lines);
}

#[test]
fn options_exist() {
    assert_right(options);
}

#[test]
fn make_targets_exist() {
    assert_right(make_targets);
}

#[test]
fn environment_variables_exist() {
    assert_right(environment);
}

#[test]
fn source_paths_exist() {
    assert_right(source_paths);
}

#[test]
fn metrics_exist() {
    assert_right(metrics);
}

/// The programs with which the tables of docs/reference/mesh-compatibility.md were made are those of today's tests: a
/// section names the versions in the line before its table.
#[test]
fn mesh_tables_have_the_pinned_versions() {
    let read = |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap();
    let (tools, envoy) = (read("tools/go-tools.txt"), read("tools/envoy-requirements.txt"));
    let pinned: BTreeSet<&str> = tools.split(['@', ' ', '\n']).chain(envoy.split(['=', '\n'])).collect();
    let page = read("docs/reference/mesh-compatibility.md");
    let is_version = |word: &&str| {
        word.trim_start_matches('v').split('.').filter(|part| !part.is_empty()).count() > 2
            && word.trim_start_matches('v').starts_with(|digit: char| digit.is_ascii_digit())
    };
    let mut count = 0;
    for (versions, _) in page.lines().zip(page.lines().skip(2)).filter(|(_, table)| table.starts_with("| case |")) {
        for version in versions.split(' ').map(|word| word.trim_end_matches(['.', ','])).filter(is_version) {
            assert!(
                pinned.contains(version),
                "{version} is not pinned; KEYWARD_UPDATE_MESH=1 make test-mesh: {versions}"
            );
            count += 1;
        }
    }
    assert!(count >= 2, "the page has tables with versions");
}

/// A repository with one page, docs/a.md, beside which there are some files.
fn with_page(text: &str) -> Repository {
    let mut repository = Repository::default();
    for path in ["docs", "docs/a.md", "docs/b.md", "src", "src/engine", "src/engine/x.rs", "Makefile"] {
        repository.paths.insert(path.to_owned());
    }
    repository.take("Makefile", "OUT := x\n.PHONY: all\nbuild: wasm\nunit lint: cargo\n\t@echo a: b\n");
    repository.take("src/engine/x.rs", "KEYWARD_LISTEN");
    repository.take("src/host/metrics.rs", "keyward_feed_pages keyward_requests_{name}");
    repository.take("docs/b.md", "# Title\n");
    repository.take("docs/a.md", text);
    repository
}

#[test]
fn mistakes_are_found() {
    type Check = fn(&Repository, &str, &Page) -> Vec<String>;
    for (check, right, wrong) in [
        (links as Check, "# H\n[a](b.md#title) [b](#h) [c](../src/engine/) [d](https://x)", "[a](c.md)"),
        (links, "![i](../src/engine/x.rs)", "[a](b.md#other)"),
        (links, "```\n[a](c.md)\n```", "# H\n[b](#i)"),
        (
            command_lines,
            "```console\n$ keyward keys list --json\n```",
            "```console\n$ keyward keys list --nonsense\n```",
        ),
        (command_lines, "```\nkeyward keys rotate ID --grace DURATION\n```", "```console\n$ keyward keys rotate\n```"),
        (command_lines, "`keyward keys rotate`, `keyward serve --retention`", "`keyward keys turn`"),
        (command_lines, "`keyward keys|owners --help`", "`keyward keys|nonsense --help`"),
        (command_lines, "`keyward usage reports [--key KEY_ID]`", "`keyward usage reports [--owner ID]`"),
        (command_lines, "`keyward COMMAND --help`", "`keyward serve --retention soon`"),
        (make_targets, "`make build`, `A=1 make lint unit B=2`", "`make nonsense`"),
        (make_targets, "```console\n$ make unit\n```", "```console\n$ A=1 make unit all\n```"),
        (environment, "KEYWARD_LISTEN", "KEYWARD_LISTENS"),
        (source_paths, "`src/engine/x.rs`, `engine/x.rs`, `x.rs`, `src/*.rs`, `a/b`", "`src/engine/y.rs`"),
        (source_paths, "`src/engine/`, `src/engine/NAME.rs`", "`engine/y.rs`"),
        (metrics, "`keyward_feed_pages` `keyward_requests_allow` `keyward_guard`", "`keyward_feed_page`"),
        (metrics, "`keyward_requests_revoked`", "`keyward_requests_nonsense`"),
    ] {
        assert_eq!(with_page(right).check(check), [""; 0], "{right}");
        let problems = with_page(wrong).check(check);
        assert!(problems.len() == 1 && problems[0].starts_with("docs/a.md: "), "{wrong}: {problems:?}");
    }
    let mut repository = with_page("");
    repository.take("docs/reference/command-line.md", "`--listen HOST:PORT` `--nonsense`");
    assert_eq!(repository.check(options), ["docs/reference/command-line.md: no command has the option --nonsense"]);
}
