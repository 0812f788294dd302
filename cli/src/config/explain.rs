//! Which rule decides a request, why no earlier one does, what the rule requires, and what the guard has to pass.

use super::document::{self, FilterConfig};
use super::envoy;
use super::report::{line, mistakes_in};
use crate::CliError;
use crate::output::{OutputFormat, print, printable};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use keyward_core::dialect::Source;
use keyward_filter::engine::rules::{Access, Explanation, Mismatch, Requirement, Rule, Strip, Target};
use keyward_filter::policy::Config;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;

/// The commands on rules.
#[derive(Debug, Subcommand)]
pub(crate) enum RulesCommand {
    /// Explain which rule decides a request, and why no earlier rule does
    Explain(ExplainArguments),
}

pub(crate) fn rules(command: RulesCommand, output: OutputFormat) -> Result<(), CliError> {
    match command {
        RulesCommand::Explain(arguments) => explain(&arguments, output),
    }
}

/// A request, and the rules.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 success, 1 the configuration has mistakes, 2 wrong usage, 4 the file cannot be read."
)]
pub(crate) struct ExplainArguments {
    /// Configuration of Envoy with the filter, or of the filter alone, in YAML or JSON
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Method of the request
    #[arg(long, default_value = "GET", value_parser = NonEmptyStringValueParser::new())]
    method: String,
    /// Path of the request as Envoy normalises it; a query may follow
    #[arg(long, value_parser = path)]
    path: String,
    /// Host of the request, with or without a port
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    host: Option<String>,
}

fn path(text: &str) -> Result<String, &'static str> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err("expected a path that begins with /; name the host with --host")
    }
}

/// A host that no rule can name, in place of none.
const NO_HOST: &str = "_";

fn explain(arguments: &ExplainArguments, output: OutputFormat) -> Result<(), CliError> {
    let filters = document::read(&arguments.config)?;
    let mut explained = Vec::new();
    for filter in &filters {
        let config = filter.parse().map_err(|problems| {
            let lines: Vec<_> = problems.iter().map(|problem| format!("\n{}", line(problem))).collect();
            CliError::Mistakes(format!("{}{}", mistakes_in(problems.len(), &arguments.config), lines.concat()))
        })?;
        explained.push(Explained::of(&config, filter, arguments));
    }
    if output == OutputFormat::Json {
        let filters: Vec<Value> = explained.iter().map(Explained::json).collect();
        let host = arguments.host.as_deref();
        let document = json!({"method": arguments.method, "path": arguments.path, "host": host, "filters": filters});
        return print(&format!("{document:#}\n"));
    }
    let host = arguments.host.as_deref().unwrap_or("any host that no rule names");
    let mut text = format!("{} {}, {host}\n", printable(&arguments.method), printable(&arguments.path));
    for one in &explained {
        if explained.len() > 1 {
            let _ = writeln!(text, "\nfilter at {}", one.at);
        }
        text.push_str(&one.text());
    }
    print(&text)
}

/// The explanation for one filter.
struct Explained {
    at: String,
    /// Each rule that was compared, and the outcome.
    rules: Vec<(String, String)>,
    /// Whether the last of them decides the request.
    decides: bool,
    /// The consequences, by name.
    facts: Vec<(&'static str, Value)>,
}

impl Explained {
    fn of(config: &Config, filter: &FilterConfig, arguments: &ExplainArguments) -> Self {
        let mut explained = Self { at: filter.at.clone(), rules: Vec::new(), decides: false, facts: Vec::new() };
        let without_query = arguments.path.split('?').next().unwrap_or_default();
        if config.readiness_path.as_deref() == Some(without_query) {
            let answer = "the filter answers this path itself (readiness_path), before any rule: 200 once it can decide requests, \
                          503 until then";
            explained.facts.push(("answer", answer.into()));
            return explained;
        }
        let host = arguments.host.as_deref().unwrap_or(NO_HOST);
        let target =
            Target { method: arguments.method.as_bytes(), host: host.as_bytes(), path: arguments.path.as_bytes() };
        let rules = &config.policy.rules;
        let generated = rules.rules.iter().filter(|rule| matches!(rule.route.access, Access::Metadata(_))).count();
        let name = |number: usize| {
            let rule = rules.rules.get(number).map(described).unwrap_or_default();
            match number.checked_sub(generated) {
                Some(number) => format!("rules[{number}] {rule}"),
                None => format!("metadata of a protected_resource {rule}"),
            }
        };
        let decided = match rules.explain(&target) {
            Explanation::NoMethod => {
                explained.facts.push(("no_rule", "a method with lowercase letters matches no rule".into()));
                None
            }
            Explanation::NoHost => {
                explained
                    .facts
                    .push(("no_rule", "the value of --host is not a valid host, and matches no rule".into()));
                None
            }
            Explanation::Rules { mismatches, decides } => {
                for (number, mismatch) in mismatches.into_iter().enumerate() {
                    let why = rules.rules.get(number).map(|rule| why(mismatch, rule, arguments)).unwrap_or_default();
                    explained.rules.push((name(number), why));
                }
                decides
            }
        };
        let Some((decided, rule)) = decided.and_then(|decided| Some((decided, rules.rules.get(decided.rule)?))) else {
            explained.facts.push((
                "verdict",
                "no rule matches: missing (401) without a key, wrong_kind (403) with a valid key".into(),
            ));
            return explained;
        };
        let spelling = if decided.is_as_sent {
            "decides"
        } else {
            "decides, as a rule that requires a key also matches with or without a slash at the end"
        };
        explained.rules.push((name(decided.rule), spelling.to_owned()));
        explained.decides = true;
        explained.require(config, rule, &arguments.method);
        if let Some(also) = decided.also.and_then(|also| Some((also, rules.rules.get(also)?)))
            && let (
                number,
                Rule { route: keyward_filter::engine::rules::Route { access: Access::Key(requirement), .. }, .. },
            ) = also
        {
            let asked = requirement_of(requirement, &arguments.method)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value));
            let mut also = Map::from_iter(asked);
            also.insert("rule".to_owned(), name(number).into());
            explained.facts.push(("also_requires", also.into()));
        }
        explained.require_guard(filter, rule, without_query);
        explained
    }

    /// What the rule requires.
    fn require(&mut self, config: &Config, rule: &Rule, method: &str) {
        let (access, requirement) = match &rule.route.access {
            Access::Key(requirement) => ("a key", Some(requirement)),
            Access::Optional(requirement) => ("a key if there is a credential, otherwise nothing", Some(requirement)),
            Access::Public => ("nothing; a credential is removed", None),
            Access::Delegated(None) => ("nothing here: another filter verifies the credential, which stays", None),
            Access::Delegated(Some(_)) => ("an Authorization field, which another filter verifies", None),
            Access::Metadata(_) => ("nothing: the filter answers with the metadata of the resource", None),
        };
        self.facts.push(("requires", access.into()));
        let Some(requirement) = requirement else { return };
        let sources: Vec<String> = config.policy.dialect.sources.iter().map(source).collect();
        self.facts.push(("read_from", sources.into()));
        self.facts.extend(requirement_of(requirement, method));
        self.facts.push(("cost", rule.route.cost.get().into()));
        let credential =
            if requirement.strip == Strip::IdentityAndUnread { "is passed to the upstream" } else { "is removed" };
        self.facts.push(("credential", credential.into()));
    }

    /// What the guard has to pass, and whether it does, if that is known.
    fn require_guard(&mut self, filter: &FilterConfig, rule: &Rule, path: &str) {
        let guard = filter.plugin.as_ref().and_then(|_| envoy::guard_of(filter));
        for verdict in envoy::verdicts_of(&rule.route.access) {
            let needed = format!("a policy that passes the verdict `{verdict}` here");
            let guarded = match guard.as_ref().map(|guard| guard.passes(verdict, path)) {
                Some(Ok(policy)) => format!("{needed}: {policy} does"),
                Some(Err(false)) => {
                    format!("{needed}: no policy does; add the permission {}", envoy::permission(&rule.path))
                }
                Some(Err(true)) | None if *verdict == "allow" => format!("{needed}, such as accepted_key"),
                Some(Err(true)) | None => {
                    format!("{needed}, with a permission such as {}", envoy::permission(&rule.path))
                }
            };
            self.facts.push(("guard", guarded.into()));
        }
    }

    fn json(&self) -> Value {
        let rules = self.rules.iter().enumerate().map(|(n, (rule, reason))| {
            json!({"rule": rule, "decides": self.decides && n + 1 == self.rules.len(), "reason": reason})
        });
        let mut document = Map::from_iter([("at".to_owned(), Value::from(self.at.as_str()))]);
        document.insert("rules".to_owned(), rules.collect());
        for (name, value) in &self.facts {
            // A route with an optional key needs a guard that passes two verdicts.
            match document.get_mut(*name) {
                Some(Value::Array(several)) if *name == "guard" => several.push(value.clone()),
                _ if *name == "guard" => drop(document.insert("guard".to_owned(), json!([value]))),
                _ => drop(document.insert((*name).to_owned(), value.clone())),
            }
        }
        document.into()
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (n, (rule, reason)) in self.rules.iter().enumerate() {
            let mark = if self.decides && n + 1 == self.rules.len() { '*' } else { ' ' };
            let _ = writeln!(text, "{mark} {}: {}", printable(rule), printable(reason));
        }
        for (name, value) in &self.facts {
            let _ = writeln!(text, "  {:<11} {}", name.replace('_', " "), printable(&plain(value)));
        }
        text
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(elements) if elements.is_empty() => "none".to_owned(),
        Value::Array(elements) => elements.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}: {}", plain(value))).collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    }
}

fn source(source: &Source) -> String {
    match source {
        Source::Header { written, scheme: Some(scheme), .. } => format!("{written}: {scheme}"),
        Source::Header { written, scheme: None, .. } => written.clone(),
        Source::Basic(_) => "Authorization: Basic".to_owned(),
        Source::Query(parameter) => format!("query parameter {parameter}"),
        Source::Cookie(cookie) => format!("cookie {cookie}"),
    }
}

fn requirement_of(requirement: &Requirement, method: &str) -> Vec<(&'static str, Value)> {
    let kinds = match &requirement.kinds {
        None => "all".into(),
        Some(kinds) => kinds.clone().into(),
    };
    vec![("kinds", kinds), ("scopes", requirement.scopes.of(method.as_bytes()).to_vec().into())]
}

/// A short description of a rule.
fn described(rule: &Rule) -> String {
    let mut text = rule.path.to_string();
    if !rule.methods.is_empty() {
        let _ = write!(text, ", {}", rule.methods.join(" "));
    }
    if !rule.hosts.is_empty() {
        let _ = write!(text, ", {}", hosts(rule).join(" "));
    }
    let access = match rule.route.access {
        Access::Key(_) => "key",
        Access::Optional(_) => "optional",
        Access::Public => "public",
        Access::Delegated(_) => "delegated",
        Access::Metadata(_) => "answered by the filter",
    };
    format!("({text}; {access})")
}

fn hosts(rule: &Rule) -> Vec<String> {
    rule.hosts.iter().map(ToString::to_string).collect()
}

fn why(mismatch: Mismatch, rule: &Rule, arguments: &ExplainArguments) -> String {
    match mismatch {
        Mismatch::Path => "does not match: different path".to_owned(),
        Mismatch::Method => {
            format!("does not match: method {} is not among {}", arguments.method, rule.methods.join(", "))
        }
        Mismatch::Host => {
            let hosts = hosts(rule).join(", ");
            match &arguments.host {
                Some(host) => format!("does not match: host {host} is not among {hosts}"),
                None => format!("does not match: the rule needs a host among {hosts}, and --host is absent"),
            }
        }
        Mismatch::Slash => {
            "does not match: it differs by the slash at the end, which only rules that require a key ignore".to_owned()
        }
        Mismatch::AmbiguousPath => {
            "does not match: the path can be read in two ways, and the rule does not set ambiguous_paths".to_owned()
        }
    }
}
