//! Keys and tokens that were typed where none belongs: as an argument, or as the value of a variable that stands for one.
//!
//! Looked for before anything is read, as whatever reads an argument may print it, log it or send it. What is found goes
//! nowhere and is not repeated. Keys of dialects in files are not known here, nor those without a prefix to tell them by.

use super::Arguments;
use crate::issued_tokens;
use clap::CommandFactory;
use keyward_contract::dialect::Dialect;
use keyward_contract::key_format::KeyFormat;
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

/// The shortest prefix that tells keys from other words.
const MIN_PREFIX_LENGTH: usize = 3;

/// Looks at the arguments behind the program's name, and at the variables that stand for one.
///
/// # Errors
/// If there is a key or a token among them.
pub fn refuse(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<(), TypedSecret> {
    let formats = formats();
    let holds = |text: &OsStr| holds_secret(&formats, text.as_encoded_bytes());
    if let Some(at) = arguments.into_iter().position(|argument| holds(&argument)) {
        return Err(TypedSecret::Argument(at + 1));
    }
    let found = variables().into_iter().find(|name| variable(name).is_some_and(|value| holds(&value)));
    found.map_or(Ok(()), |name| Err(TypedSecret::Variable(name)))
}

/// The formats of the keys that can be told from other words.
fn formats() -> Vec<KeyFormat> {
    let dialects = Dialect::built_in_names().filter_map(Dialect::built_in).filter_map(Result::ok);
    dialects.flat_map(|dialect| dialect.formats).filter(|format| format.prefix.len() >= MIN_PREFIX_LENGTH).collect()
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

/// Whether the text, or a part of it such as an element of a list, a value behind its name or a piece of a URL, is one.
fn holds_secret(formats: &[KeyFormat], text: &[u8]) -> bool {
    let is_secret =
        |part: &[u8]| issued_tokens::is_well_formed(part) || formats.iter().any(|format| format.matches(part));
    is_secret(text) || text.split(|c| separates(*c)).any(is_secret)
}

/// Whether it is in no key or token that is looked for, and stands between the parts of what holds one.
fn separates(c: u8) -> bool {
    c.is_ascii_whitespace() || b"=,;:/@?&#\"'".contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(dialect: &str) -> String {
        let dialect = Dialect::built_in(dialect).unwrap().unwrap();
        let format = dialect.formats.iter().rfind(|format| !format.prefix.is_empty()).unwrap();
        format.issue(crate::random::fill).unwrap().expose().to_owned()
    }

    fn token() -> String {
        format!("kwe_{}", crate::random::base62(crate::tokens::RANDOM_LENGTH).unwrap())
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
    fn ids_files_and_other_words_are_none() {
        let id = crate::random::id("key_").unwrap();
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
