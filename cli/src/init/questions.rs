//! Asks on a terminal for what no option gives.

use super::InitArguments;
use super::answers::{Host, Preset};
use crate::CliError;
use dialoguer::{Confirm, Input, Select};
use keyward_core::dialect::Dialect;

/// Where the answers come from.
pub(super) trait Questioner {
    /// A text; the default if nothing is entered.
    fn text(&mut self, question: &str, default: Option<&str>) -> Result<String, CliError>;
    /// One of several; the first is the default.
    fn choice(&mut self, question: &str, choices: &[&str]) -> Result<usize, CliError>;
    /// Yes or no; no is the default.
    fn confirm(&mut self, question: &str) -> Result<bool, CliError>;
}

/// The terminal of the process; questions are on standard error.
pub(super) struct Terminal;

impl Questioner for Terminal {
    fn text(&mut self, question: &str, default: Option<&str>) -> Result<String, CliError> {
        let mut input = Input::<String>::new().with_prompt(question);
        if let Some(default) = default {
            input = input.default(default.to_owned());
        }
        input.interact_text().map_err(ended)
    }

    fn choice(&mut self, question: &str, choices: &[&str]) -> Result<usize, CliError> {
        Select::new().with_prompt(question).items(choices).default(0).interact().map_err(ended)
    }

    fn confirm(&mut self, question: &str) -> Result<bool, CliError> {
        Confirm::new().with_prompt(question).default(false).interact().map_err(ended)
    }
}

fn ended(error: dialoguer::Error) -> CliError {
    CliError::Mistakes(format!("the questions were ended, and nothing was written: {error}"))
}

/// The arguments, completed by answers.
pub(super) fn ask(mut arguments: InitArguments, questioner: &mut impl Questioner) -> Result<InitArguments, CliError> {
    if arguments.upstream.is_none() {
        arguments.upstream = Some(questioner.text("URL of the upstream, such as http://127.0.0.1:8090", None)?);
    }
    if arguments.listen.is_none() {
        arguments.listen = Some(questioner.text("Address of the listener", Some("127.0.0.1:8080"))?);
    }
    if arguments.tls_certificate.is_none() && questioner.confirm("TLS on the listener?")? {
        arguments.tls_certificate = Some(questioner.text("Certificate chain of the listener (PEM)", None)?.into());
        arguments.tls_private_key = Some(questioner.text("Private key of the listener (PEM)", None)?.into());
    }
    if arguments.dialect.is_none() {
        let names: Vec<_> = Dialect::built_in_names().collect();
        let chosen = questioner.choice("Dialect", &names)?;
        arguments.dialect = names.get(chosen).map(|name| (*name).to_owned());
    }
    if arguments.rules.is_none() {
        let meanings = [
            "health-public: all paths but the health check need a key",
            "all-keys: every path needs a key",
            "read-write: GET needs the permission read, other methods write",
        ];
        let chosen = questioner.choice("Rules", &meanings)?;
        arguments.rules = Preset::ALL.get(chosen).map(|(name, _)| (*name).to_owned());
    }
    if arguments.health_path.is_none() && arguments.rules.as_deref() != Some("all-keys") {
        arguments.health_path = Some(questioner.text("Path of the health check, which needs no key", Some("/health"))?);
    }
    if arguments.control_plane.is_none() {
        arguments.control_plane = Some(questioner.text("URL of the control plane", Some("http://127.0.0.1:8081"))?);
    }
    if arguments.host.is_none() && arguments.module.is_none() {
        let meanings = [
            "wasm: a Wasm module, for every supported Envoy",
            "native: a dynamic module, which costs less, for the Envoy that it is built for",
        ];
        let chosen = questioner.choice("Host of the filter", &meanings)?;
        arguments.host = Host::ALL.get(chosen).map(|(name, _)| (*name).to_owned());
    }
    if arguments.module.is_none() {
        let host = Host::ALL.into_iter().find(|(name, _)| Some(*name) == arguments.host.as_deref());
        let default = host.map_or(Host::Wasm, |(_, host)| host).default_module();
        arguments.module = Some(questioner.text("Module of the filter, as Envoy finds it", Some(&default))?.into());
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::answers::Answers;
    use std::collections::VecDeque;

    /// Answers in order; the empty text is the default.
    struct Script {
        answers: VecDeque<&'static str>,
        asked: Vec<String>,
    }

    impl Script {
        fn next(&mut self, question: &str) -> &'static str {
            self.asked.push(question.to_owned());
            self.answers.pop_front().expect("an answer to every question")
        }
    }

    impl Questioner for Script {
        fn text(&mut self, question: &str, default: Option<&str>) -> Result<String, CliError> {
            let answer = self.next(question);
            Ok(if answer.is_empty() { default.expect("a default").to_owned() } else { answer.to_owned() })
        }

        fn choice(&mut self, question: &str, choices: &[&str]) -> Result<usize, CliError> {
            let answer = self.next(question);
            Ok(choices.iter().position(|choice| choice.starts_with(answer)).unwrap())
        }

        fn confirm(&mut self, question: &str) -> Result<bool, CliError> {
            Ok(self.next(question) == "y")
        }
    }

    #[test]
    fn answers_complete_the_arguments() {
        let answers =
            ["https://api.example", "0.0.0.0:8443", "y", "/c", "/k", "exona", "read-write", "", "", "native", ""];
        let mut script = Script { answers: answers.into(), asked: Vec::new() };
        let arguments = ask(InitArguments::default(), &mut script).unwrap();
        assert!(script.answers.is_empty());
        let answers = Answers::read(&arguments).unwrap();
        assert_eq!(
            (answers.upstream.host.as_str(), answers.listen.port(), answers.dialect.as_str()),
            ("api.example", 8443, "exona")
        );
        assert_eq!((answers.rules, answers.health_path.as_str()), (Preset::ReadWrite, "/health"));
        assert!(answers.tls.is_some());
        assert_eq!(answers.module.display().to_string(), Host::Native.default_module());
    }

    #[test]
    fn what_is_given_is_not_asked_for() {
        let given = InitArguments {
            upstream: Some("http://h:1".to_owned()),
            listen: Some("127.0.0.1:1".to_owned()),
            dialect: Some("keyward".to_owned()),
            rules: Some("all-keys".to_owned()),
            control_plane: Some("http://h:2".to_owned()),
            module: Some("/w".into()),
            ..InitArguments::default()
        };
        let mut script = Script { answers: ["n"].into(), asked: Vec::new() };
        ask(given, &mut script).unwrap();
        assert_eq!(script.asked, ["TLS on the listener?"]);
    }
}
