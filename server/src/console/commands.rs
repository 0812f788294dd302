//! The command line and the request that do what a page does.

use super::api::ApiRequest;
use std::fmt::Write;

/// How to do the same without the console.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    pub(super) cli: String,
    pub(super) curl: String,
}

/// A command line that is put together.
pub(super) struct Cli(String);

impl Commands {
    /// The command line and the request, of which neither contains a secret.
    pub(super) fn new(cli: Cli, request: &ApiRequest) -> Self {
        let mut curl = "curl".to_owned();
        if request.method != "GET" {
            let _ = write!(curl, " -X {}", request.method);
        }
        let _ =
            write!(curl, " \"$KEYWARD_URL{}\" \\\n  -H \"Authorization: Bearer $KEYWARD_ADMIN_TOKEN\"", request.path);
        if let Some(document) = &request.document {
            let _ = write!(curl, " \\\n  --json {}", quoted(&document.to_string()));
        }
        Self { cli: cli.0, curl }
    }
}

impl Cli {
    pub(super) fn new(command: &str) -> Self {
        Self(format!("keyward {command}"))
    }

    /// Adds an argument.
    pub(super) fn argument(mut self, value: &str) -> Self {
        self.0.push(' ');
        // A value that begins with a hyphen would be taken for an option.
        if value.starts_with('-') {
            self.0.push_str("-- ");
        }
        self.0.push_str(&quoted(value));
        self
    }

    /// Adds an option, unless its value is empty.
    pub(super) fn option(mut self, name: &str, value: &str) -> Self {
        if !value.is_empty() {
            let separator = if value.starts_with('-') { '=' } else { ' ' };
            let _ = write!(self.0, " {name}{separator}{}", quoted(value));
        }
        self
    }

    /// Adds an option once for each value.
    pub(super) fn options<'a>(self, name: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        values.into_iter().fold(self, |cli, value| cli.option(name, value))
    }
}

/// The text as one word of a POSIX shell.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Method;
    use serde_json::json;

    #[test]
    fn commands_are_words_of_a_shell() {
        let request = ApiRequest::new(Method::POST, "/v1/keys".to_owned()).with_document(json!({"name": "it's"}));
        let cli =
            Cli::new("keys create").option("--name", "it's").option("--owner", "").options("--scope", ["a:b", "-c"]);
        let commands = Commands::new(cli, &request);
        assert_eq!(commands.cli, "keyward keys create --name 'it'\\''s' --scope a:b --scope=-c");
        assert!(commands.curl.ends_with("--json '{\"name\":\"it'\\''s\"}'"), "{}", commands.curl);
        assert_eq!(Cli::new("keys show").argument("-x").0, "keyward keys show -- -x");
        assert_eq!([quoted(""), quoted("$(a)"), quoted("a b\n")], ["''", "'$(a)'", "'a b\n'"]);
    }
}
