//! Keys and tokens that were typed where none belongs: as an argument, or as the value of a variable that stands for one.
//!
//! Looked for before anything is read, as whatever reads an argument may print it, log it or send it. What is found goes
//! nowhere and is not repeated. Keys of a dialect in a file are known where the command line or KEYWARD_DIALECT names the file;
//! those without a prefix or a checksum to tell them by are not.

use super::Arguments;
use clap::CommandFactory;
use keyward_core::dialect::Dialect;
use keyward_core::dialect::secret_recognizer::SecretRecognizer;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

/// A key or a token stands where none belongs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypedSecret {
    /// It is a part of the argument of that number, from 1.
    #[error(
        "argument {0} holds a key or a token. It went nowhere from here, but it stands in the shell's history, and whoever \
         lists processes could see it: end it. {WHERE_FROM}"
    )]
    Argument(usize),
    /// It is a part of the value of that variable.
    #[error(
        "the variable {} holds a key or a token, for which it is not meant. It went nowhere from here; if it was typed, it \
         stands in the shell's history: end it. {WHERE_FROM}",
        .0.display()
    )]
    Variable(OsString),
}

const WHERE_FROM: &str =
    "Keys are read from files and from the standard input, tokens from files and from KEYWARD_ADMIN_TOKEN";

/// The variables that are read elsewhere and may be shown.
const OTHER_VARIABLES: [&str; 2] = ["KEYWARD_CONTROL_PORT", "RUST_LOG"];

/// The variable, and the argument, that name the dialect.
const DIALECT_VARIABLE: &str = "KEYWARD_DIALECT";
const DIALECT_ARGUMENT: &str = "--dialect";

/// Looks at the arguments behind the program's name, and at the variables that stand for one.
///
/// # Errors
/// If there is a key or a token among them.
pub fn refuse(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<(), TypedSecret> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let recognizer = recognizer(&arguments, variable(OsStr::new(DIALECT_VARIABLE)));
    let holds = |text: &OsStr| recognizer.is_in(text.as_encoded_bytes());
    if let Some(at) = arguments.iter().position(|argument| holds(argument)) {
        return Err(TypedSecret::Argument(at + 1));
    }
    let found = variables().into_iter().find(|name| variable(name).is_some_and(|value| holds(&value)));
    found.map_or(Ok(()), |name| Err(TypedSecret::Variable(name)))
}

/// What knows the keys that come with Keyward, and those of the dialects that are named. A file that cannot be used is for
/// whoever needs it to tell of.
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

/// The variables that stand for an argument of any command, and those that may be shown as if they did.
fn variables() -> BTreeSet<OsString> {
    fn of(command: &clap::Command, found: &mut BTreeSet<OsString>) {
        found.extend(command.get_arguments().filter_map(|argument| argument.get_env()).map(OsStr::to_owned));
        command.get_subcommands().for_each(|command| of(command, found));
    }
    let mut found = OTHER_VARIABLES.into_iter().map(OsString::from).collect();
    of(&Arguments::command(), &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

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
        refuse(arguments.iter().map(OsString::from), value).err()
    }

    #[test]
    fn a_key_of_every_dialect_and_a_token_are_found_wherever_they_stand_in_an_argument() {
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
    fn a_key_of_an_own_dialect_is_found_where_its_file_is_named() {
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
    fn ids_files_and_other_words_are_none() {
        let id = keyward_server::random::id("key_").unwrap();
        let hint = &key("keyward")[..12];
        let words = ["keys", "show", &id, "sec_1", hint, "./kw_live_keys.txt", "--limit=10/s", "", "=", "user.name"];
        assert_eq!(refused(&words, &[("KEYWARD_URL", "http://127.0.0.1:8081")]), None);
        // It cannot be told from any other text.
        assert_eq!(refused(&["aaaaaaaaaaaaaaaaaaaaaaaa"], &[]), None);
    }

    #[test]
    fn the_variables_that_stand_for_arguments_are_looked_at_and_those_that_hold_secrets_are_not() {
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
