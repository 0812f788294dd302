//! Why a rule matches a request, or not: what [`Rules::find`] does, rule by rule.

use super::{Rules, Spellings, Target, canonical_path, host_of};

/// Why a rule does not match a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It is for other methods.
    Method,
    /// It is for other hosts.
    Host,
    /// It is for other paths.
    Path,
    /// It differs by the slash at the end of the path, which counts for rules that do not require a key.
    Slash,
    /// The path can be read in two ways, and the rule is not for such.
    AmbiguousPath,
}

/// Whether rules match a request at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// No rule does: the method has lowercase letters.
    NoMethod,
    /// No rule does: the authority is not a host.
    NoHost,
    /// Of each rule up to the one that decides, why it does not; and its number, if one does.
    Rules {
        /// Of each rule before it.
        mismatches: Vec<Mismatch>,
        /// The rule that decides.
        decides: Option<Decides>,
    },
}

/// A rule that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decides {
    /// Its number.
    pub rule: usize,
    /// Whether it matches the path as it was sent, and not only with or without a slash at its end.
    pub is_as_sent: bool,
    /// The rule whose requirement applies as well, as it matches the path as it was sent.
    pub also: Option<usize>,
}

impl Rules {
    /// The outcome of every rule for a request, up to the one that decides.
    pub fn explain(&self, target: &Target<'_>) -> Explanation {
        if target.method.iter().any(u8::is_ascii_lowercase) {
            return Explanation::NoMethod;
        }
        let Some(host) = host_of(target.host) else { return Explanation::NoHost };
        let found = self.find(target);
        let number_of =
            |wanted: &super::Route| self.rules.iter().position(|rule| std::ptr::eq(&raw const rule.route, wanted));
        let decides = found.and_then(|(route, also)| {
            let rule = number_of(route)?;
            let also = also.and_then(|also| {
                self.rules.iter().position(|rule| match &rule.route.access {
                    super::Access::Key(requirement) => std::ptr::eq(requirement, also),
                    _ => false,
                })
            });
            Some((rule, also))
        });
        let path = target.path.split(|&c| c == b'?' || c == b'#').next().unwrap_or_default();
        let mut canonical = canonical_path(path);
        let spellings = canonical.as_mut().map(Spellings::of);
        let why = |rule: &super::Rule| {
            let Some(path) = spellings else { return Mismatch::AmbiguousPath };
            match () {
                () if rule.path.matches(path.sent, self.ignore_case) => {}
                () if rule.path.matches(path.respelled, self.ignore_case) => return Mismatch::Slash,
                () => return Mismatch::Path,
            }
            if rule.is_for_method(target.method) { Mismatch::Host } else { Mismatch::Method }
        };
        let before = decides.map_or(self.rules.len(), |(rule, _)| rule);
        let is_as_sent = decides.and_then(|(rule, _)| self.rules.get(rule)).is_some_and(|rule| match spellings {
            Some(path) => rule.matches(target.method, &host, path, self.ignore_case) == Some(true),
            None => true,
        });
        Explanation::Rules {
            mismatches: self.rules.iter().take(before).map(why).collect(),
            decides: decides.map(|(rule, also)| Decides { rule, is_as_sent, also }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Access, HostMatch, PathMatch, Requirement, Route, Rule};
    use super::*;
    use std::num::NonZeroU32;

    fn rules() -> Rules {
        let rule = |path, access| Rule {
            path,
            methods: Vec::new(),
            hosts: Vec::new(),
            ambiguous_paths: false,
            route: Route { access, errors: None, cost: NonZeroU32::MIN },
        };
        let key = || Access::Key(Requirement::default());
        Rules {
            rules: vec![
                rule(PathMatch::exact("/health"), Access::Public),
                Rule { methods: vec!["POST".into()], ..rule(PathMatch::prefix("/"), key()) },
                Rule { hosts: vec![HostMatch::new("a.example").unwrap()], ..rule(PathMatch::prefix("/"), key()) },
                rule(PathMatch::exact("/reports"), key()),
                rule(PathMatch::prefix("/reports"), key()),
            ],
            ignore_case: false,
        }
    }

    fn explain(method: &str, host: &str, path: &str) -> Explanation {
        rules().explain(&Target { method: method.as_bytes(), host: host.as_bytes(), path: path.as_bytes() })
    }

    #[test]
    fn each_rule_before_the_one_that_decides_says_why_it_does_not_match() {
        use Mismatch::{AmbiguousPath, Host, Method, Path, Slash};
        let expected = |mismatches: &[Mismatch], decides: Option<(usize, bool, Option<usize>)>| Explanation::Rules {
            mismatches: mismatches.to_vec(),
            decides: decides.map(|(rule, is_as_sent, also)| Decides { rule, is_as_sent, also }),
        };
        assert_eq!(explain("GET", "h", "/health?x"), expected(&[], Some((0, true, None))));
        assert_eq!(explain("GET", "a.example", "/health/"), expected(&[Slash, Method], Some((2, true, None))));
        assert_eq!(explain("GET", "h", "/reports"), expected(&[Path, Method, Host], Some((3, true, None))));
        assert_eq!(explain("GET", "h", "/reports/"), expected(&[Path, Method, Host], Some((3, false, Some(4)))));
        assert_eq!(explain("GET", "h", "/none"), expected(&[Path, Method, Host, Path, Path], None));
        assert_eq!(explain("GET", "h", "/a;b"), expected(&[AmbiguousPath; 5], None));
        assert_eq!(explain("get", "h", "/"), Explanation::NoMethod);
        assert_eq!(explain("GET", "a b", "/"), Explanation::NoHost);
    }
}
