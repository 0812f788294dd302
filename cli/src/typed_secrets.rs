//! Refuses keys and tokens in arguments, and in variables that stand for arguments.
//!
//! The search comes before parsing, as whatever reads an argument may print, log or send it. A secret that is found is neither
//! used nor repeated. Keys of a dialect in a file are recognized if the command line or KEYWARD_DIALECT names the file; keys
//! without a prefix or a checksum are not recognized.

use keyward_core::dialect::Dialect;
use keyward_core::dialect::secret_recognizer::SecretRecognizer;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

/// A key or a token is in an argument or a variable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypedSecret {
    /// In the argument of that number, from 1.
    #[error(
        "argument {0} holds a key or a token. Keyward did not use it, but it is in the history of the shell, and other users \
         of this machine could see it: revoke it. {SOURCES}"
    )]
    Argument(usize),
    /// In the value of that variable.
    #[error(
        "the variable {} holds a key or a token, which it is not for. Keyward did not use it; if it was typed, it is in the \
         history of the shell: revoke it. {SOURCES}",
        .0.display()
    )]
    Variable(OsString),
}

const SOURCES: &str = "Keys are read from files and standard input, tokens from files and KEYWARD_ADMIN_TOKEN";

/// Variables that stand for no argument, and may be printed.
const OTHER_VARIABLES: [&str; 2] = ["KEYWARD_CONTROL_PORT", "RUST_LOG"];

/// The variable and the argument that name the dialect.
const DIALECT_VARIABLE: &str = "KEYWARD_DIALECT";
const DIALECT_ARGUMENT: &str = "--dialect";

/// Refuses a key or a token in the arguments after the program's name, or in the variables that stand for one.
pub fn refuse(
    command: &clap::Command,
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<(), TypedSecret> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let recognizer = recognizer(&arguments, variable(OsStr::new(DIALECT_VARIABLE)));
    let holds = |text: &OsStr| recognizer.is_in(text.as_encoded_bytes());
    if let Some(at) = arguments.iter().position(|argument| holds(argument)) {
        return Err(TypedSecret::Argument(at + 1));
    }
    let found = variables(command).into_iter().find(|name| variable(name).is_some_and(|value| holds(&value)));
    found.map_or(Ok(()), |name| Err(TypedSecret::Variable(name)))
}

/// Recognizes the keys of built-in dialects, and of the dialect files that are named. A file that cannot be used is reported
/// later, by the command that needs it.
fn recognizer(arguments: &[OsString], variable: Option<OsString>) -> SecretRecognizer {
    let behind = arguments.windows(2).filter_map(|pair| match pair {
        [name, file] if name == DIALECT_ARGUMENT => Some(file.clone()),
        _ => None,
    });
    let joined = arguments.iter().filter_map(|argument| {
        Some(OsString::from(argument.to_str()?.strip_prefix(DIALECT_ARGUMENT)?.strip_prefix('=')?))
    });
    let files = behind.chain(joined).chain(variable);
    let dialects = files.filter_map(|file| std::fs::read(file).ok()).filter_map(|text| Dialect::parse(&text).ok());
    dialects.fold(SecretRecognizer::built_in(), |recognizer, dialect| recognizer.with(&dialect))
}

/// The variables that stand for an argument of any command, and the others that may be printed.
fn variables(command: &clap::Command) -> BTreeSet<OsString> {
    fn of(command: &clap::Command, found: &mut BTreeSet<OsString>) {
        found.extend(command.get_arguments().filter_map(|argument| argument.get_env()).map(OsStr::to_owned));
        command.get_subcommands().for_each(|command| of(command, found));
    }
    let mut found = OTHER_VARIABLES.into_iter().map(OsString::from).collect();
    of(command, &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arguments;
    use clap::CommandFactory;

    fn key(dialect: &str) -> String {
        let dialect = Dialect::built_in(dialect).unwrap().unwrap();
        let format = dialect.formats.iter().rfind(|format| !format.prefix.is_empty()).unwrap();
        format.issue(keyward_server::random::fill).unwrap().expose().to_owned()
    }

    fn token() -> String {
        format!("kwe_{}", keyward_server::random::base62(keyward_server::auth::tokens::file::RANDOM_LENGTH).unwrap())
    }

    fn refused(arguments: &[&str], variables: &[(&str, &str)]) -> Option<TypedSecret> {
        let value = |name: &OsStr| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        refuse(&Arguments::command(), arguments.iter().map(OsString::from), value).err()
    }

    #[test]
    fn key_or_token_is_found_anywhere_in_an_argument() {
        let keys = Dialect::built_in_names().map(key).chain([token()]);
        for secret in keys {
            for argument in [
                secret.clone(),
                format!("--owner={secret}"),
                format!("--meta=a={secret}"),
                format!("10.0.0.0/8,{secret}"),
                format!("https://{secret}@keyward.example"),
                format!("https://paste.example/?a=b&key={secret}#top"),
                format!("found {secret}\n"),
            ] {
                let found = refused(&["keys", "list", &argument], &[]);
                assert_eq!(found, Some(TypedSecret::Argument(3)), "{argument}");
                assert!(!found.unwrap().to_string().contains(&secret));
            }
        }
    }

    #[test]
    fn key_of_a_dialect_file_is_found_if_the_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("acme.json");
        let text = include_str!("../../core/dialects/keyward.json").replace("kw_live_", "acme_");
        std::fs::write(&file, &text).unwrap();
        let dialect = Dialect::parse(text.as_bytes()).unwrap();
        let key = dialect.formats[0].issue(keyward_server::random::fill).unwrap().expose().to_owned();
        let file = file.to_str().unwrap();
        let owner = format!("--owner={key}");
        assert_eq!(refused(&["keys", "list", &owner], &[]), None);
        assert_eq!(refused(&["keys", "list", &owner], &[("KEYWARD_DIALECT", file)]), Some(TypedSecret::Argument(3)));
        assert_eq!(refused(&["serve", "--dialect", file, &owner], &[]), Some(TypedSecret::Argument(4)));
        let joined = format!("--dialect={file}");
        assert_eq!(refused(&["serve", &joined, &owner], &[]), Some(TypedSecret::Argument(3)));
        assert_eq!(refused(&["serve", "--dialect", "missing"], &[("KEYWARD_DIALECT", "keyward")]), None);
    }

    #[test]
    fn ids_files_and_other_words_are_accepted() {
        let id = keyward_server::random::id("key_").unwrap();
        let hint = &key("keyward")[..12];
        let words = ["keys", "show", &id, "sec_1", hint, "./kw_live_keys.txt", "--limit=10/s", "", "=", "user.name"];
        assert_eq!(refused(&words, &[("KEYWARD_URL", "http://127.0.0.1:8081")]), None);
        // It cannot be told from any other text.
        assert_eq!(refused(&["aaaaaaaaaaaaaaaaaaaaaaaa"], &[]), None);
    }

    #[test]
    fn variables_for_arguments_are_searched() {
        let (key, token) = (key("keyward"), token());
        for (name, value) in [
            ("KEYWARD_LISTEN", &key),
            ("KEYWARD_GITHUB_KEYS", &token),
            ("KEYWARD_URL", &token),
            ("KEYWARD_CONTROL_PORT", &token),
            ("RUST_LOG", &token),
        ] {
            let found = refused(&["keys"], &[(name, value)]).unwrap();
            assert_eq!(found, TypedSecret::Variable(name.into()));
            assert!(found.to_string().contains(name) && !found.to_string().contains(value.as_str()), "{found}");
        }
        for name in ["KEYWARD_ADMIN_TOKEN", "KEYWARD_DATABASE_URL", "KEYWARD_HMAC_PEPPER"] {
            assert_eq!(refused(&["keys"], &[(name, &token)]), None, "{name}");
        }
    }
}
