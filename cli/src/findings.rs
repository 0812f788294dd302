//! What `keyward prove` and `keyward doctor` report of one check: what was found, and what to do about it.

use super::output::printable;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Passed,
    /// It works, and something about it should be changed.
    Warning,
    /// It could not be checked, or only in part.
    NotChecked,
    Failed,
}

/// One check.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) id: &'static str,
    title: &'static str,
    findings: Vec<Finding>,
    /// What was measured, by name.
    measured: Map<String, Value>,
}

#[derive(Clone, Debug)]
struct Finding {
    outcome: Outcome,
    text: String,
    /// What to do about it; empty if it is as it should be.
    action: String,
}

impl Outcome {
    /// The name in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Warning => "warning",
            Self::NotChecked => "not_checked",
            Self::Failed => "failed",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Warning => "warning",
            Self::NotChecked => "could not check",
            Self::Failed => "FAILED",
        }
    }
}

impl Check {
    pub(super) fn new(id: &'static str, title: &'static str) -> Self {
        Self { id, title, findings: Vec::new(), measured: Map::new() }
    }

    /// Something is as it should be.
    pub(super) fn pass(&mut self, text: impl Into<String>) {
        self.add(Outcome::Passed, text, "");
    }

    /// Something is not as it should be.
    pub(super) fn fail(&mut self, text: impl Into<String>, action: impl Into<String>) {
        self.add(Outcome::Failed, text, action);
    }

    /// Something works that should be changed.
    pub(super) fn warn(&mut self, text: impl Into<String>, action: impl Into<String>) {
        self.add(Outcome::Warning, text, action);
    }

    /// Something could not be checked.
    pub(super) fn cannot(&mut self, text: impl Into<String>, action: impl Into<String>) {
        self.add(Outcome::NotChecked, text, action);
    }

    /// Records a measurement.
    pub(super) fn measure(&mut self, name: &str, value: impl Into<Value>) {
        self.measured.insert(name.to_owned(), value.into());
    }

    fn add(&mut self, outcome: Outcome, text: impl Into<String>, action: impl Into<String>) {
        self.findings.push(Finding { outcome, text: text.into(), action: action.into() });
    }

    /// The worst of its findings; a check without findings was not made.
    pub(super) fn outcome(&self) -> Outcome {
        self.findings.iter().map(|finding| finding.outcome).max().unwrap_or(Outcome::NotChecked)
    }

    pub(super) fn json(&self) -> Value {
        let findings = self.findings.iter().map(|finding| {
            let action = Some(&finding.action).filter(|action| !action.is_empty());
            json!({"outcome": finding.outcome.name(), "text": finding.text, "action": action})
        });
        json!({
            "id": self.id,
            "title": self.title,
            "outcome": self.outcome().name(),
            "findings": findings.collect::<Value>(),
            "measured": self.measured,
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{:<17}{}\n", self.outcome().words(), self.title);
        for finding in &self.findings {
            let mark = match finding.outcome {
                Outcome::Passed => ' ',
                Outcome::Warning => '~',
                Outcome::NotChecked => '?',
                Outcome::Failed => '!',
            };
            let _ = writeln!(text, "  {mark} {}", printable(&finding.text));
            if !finding.action.is_empty() {
                let _ = writeln!(text, "      → {}", printable(&finding.action));
            }
        }
        text
    }
}

/// How many checks have each outcome, by its name.
pub(super) fn summary(checks: &[Check]) -> Value {
    let outcomes = [Outcome::Passed, Outcome::Warning, Outcome::NotChecked, Outcome::Failed];
    outcomes
        .into_iter()
        .map(|outcome| (outcome.name().to_owned(), count(checks, outcome).into()))
        .collect::<Map<_, _>>()
        .into()
}

/// The same in words.
pub(super) fn summary_text(checks: &[Check]) -> String {
    let of = |outcome| count(checks, outcome);
    let warnings = match of(Outcome::Warning) {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        several => format!(", {several} warnings"),
    };
    format!(
        "{} passed, {} failed, {} could not be checked{warnings}",
        of(Outcome::Passed),
        of(Outcome::Failed),
        of(Outcome::NotChecked)
    )
}

fn count(checks: &[Check], outcome: Outcome) -> usize {
    checks.iter().filter(|check| check.outcome() == outcome).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_finding_is_the_outcome() {
        let mut check = Check::new("id", "Title");
        assert_eq!(check.outcome(), Outcome::NotChecked);
        check.pass("one");
        assert_eq!(check.outcome(), Outcome::Passed);
        check.cannot("two", "do this");
        assert_eq!(check.outcome(), Outcome::NotChecked);
        check.fail("three", "do that");
        assert_eq!(check.outcome(), Outcome::Failed);
        assert_eq!(
            check.text(),
            "FAILED           Title\n    one\n  ? two\n      → do this\n  ! three\n      → do that\n"
        );
        assert_eq!(check.json()["findings"][1], json!({"outcome": "not_checked", "text": "two", "action": "do this"}));
        assert_eq!(summary_text(&[check]), "0 passed, 1 failed, 0 could not be checked");
    }

    #[test]
    fn text_of_others_cannot_move_the_cursor() {
        let mut check = Check::new("id", "Title");
        check.fail("a\u{1b}[2J", "b\nc");
        assert!(!check.text().contains('\u{1b}') && check.text().lines().count() == 3, "{}", check.text());
    }
}
