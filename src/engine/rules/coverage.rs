//! Whether a rule can ever decide: it cannot if earlier rules match every request that it matches.
//!
//! Only paths as they are written count. A rule that requires a key also matches the other spelling of its paths, with or
//! without a slash at the end; that alone is no reason to keep a rule.

use super::{HostMatch, PathMatch, Rule, Rules};
use std::collections::BTreeSet;

impl Rules {
    /// The rules before the rule with that number that together match every request that it matches; `None` if something
    /// is left for it.
    pub fn hidden_by(&self, number: usize) -> Option<BTreeSet<usize>> {
        let (before, rest) = self.rules.split_at_checked(number)?;
        let rule = rest.first()?;
        let mut hiding = BTreeSet::new();
        for method in alternatives(&rule.methods) {
            for host in alternatives(&rule.hosts) {
                let hides = |earlier: &Rule| earlier.covers(rule, method.map(String::as_str), host, self.ignore_case);
                hiding.insert(before.iter().position(hides)?);
            }
        }
        Some(hiding)
    }
}

/// Each of the elements; or `None`, which means all, if there are none.
fn alternatives<T>(elements: &[T]) -> Vec<Option<&T>> {
    if elements.is_empty() { vec![None] } else { elements.iter().map(Some).collect() }
}

impl Rule {
    /// Whether it matches every request with that method and to that host that the other matches.
    fn covers(&self, other: &Self, method: Option<&str>, host: Option<&HostMatch>, ignore_case: bool) -> bool {
        // GET is for HEAD as well.
        let names = |wanted: &str| self.methods.iter().any(|own| own == wanted || (own == "GET" && wanted == "HEAD"));
        let is_for_method = self.methods.is_empty() || method.is_some_and(names);
        let is_for_host =
            self.hosts.is_empty() || host.is_some_and(|wanted| self.hosts.iter().any(|own| own.covers(wanted)));
        let is_for_ambiguous = self.ambiguous_paths || !other.ambiguous_paths;
        is_for_method && is_for_host && is_for_ambiguous && self.path.covers(&other.path, ignore_case)
    }
}

impl HostMatch {
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(host)) => self.matches(host.as_bytes()),
            (Self::Below(own), Self::Below(other)) => other.ends_with(own.as_str()),
            (Self::Exact(_), Self::Below(_)) => false,
        }
    }
}

impl PathMatch {
    fn covers(&self, other: &Self, ignore_case: bool) -> bool {
        match other {
            Self::Exact(path) => self.matches(path.as_bytes(), ignore_case),
            // Below a prefix there are paths of any depth, which no template and no single path matches.
            Self::Prefix(path) => matches!(self, Self::Prefix(_)) && self.matches(path.as_bytes(), ignore_case),
            Self::Template(segments) => {
                let same = |own: &str, theirs: &Option<String>| {
                    theirs.as_ref().is_some_and(|theirs| {
                        if ignore_case { own.eq_ignore_ascii_case(theirs) } else { own == theirs }
                    })
                };
                match self {
                    Self::Exact(path) => {
                        let mut own = path.split('/');
                        segments.iter().all(|theirs| own.next().is_some_and(|own| same(own, theirs)))
                            && own.next().is_none()
                    }
                    Self::Prefix(path) => {
                        let own: Vec<_> = path.split('/').collect();
                        own.len() <= segments.len() && own.iter().zip(segments).all(|(own, theirs)| same(own, theirs))
                    }
                    Self::Template(own) => {
                        own.len() == segments.len()
                            && own.iter().zip(segments).all(|(own, theirs)| match own {
                                Some(own) => same(own, theirs),
                                None => theirs.as_ref().is_none_or(|theirs| !theirs.is_empty()),
                            })
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Access, Requirement, Route, Target};
    use super::*;
    use proptest::prelude::*;
    use std::num::NonZeroU32;

    fn rule(path: &str, methods: &[&str], hosts: &[&str]) -> Rule {
        let path = match path.split_once(' ').unwrap() {
            ("exact", path) => PathMatch::exact(path),
            ("prefix", path) => PathMatch::prefix(path),
            (_, path) => PathMatch::template(path).unwrap(),
        };
        let route = Route { access: Access::Key(Requirement::default()), errors: None, cost: NonZeroU32::MIN };
        let hosts = hosts.iter().map(|host| HostMatch::new(host).unwrap()).collect();
        let methods = methods.iter().map(|&method| method.to_owned()).collect();
        Rule { path, methods, hosts, ambiguous_paths: false, route }
    }

    fn hidden(rules: Vec<Rule>) -> Option<Vec<usize>> {
        let last = rules.len() - 1;
        let hiding = Rules { rules, ignore_case: false }.hidden_by(last)?;
        Some(hiding.into_iter().collect())
    }

    #[test]
    fn rule_is_hidden_by_one_whose_paths_contain_its_own() {
        for (earlier, later, expected) in [
            ("prefix /", "exact /health", true),
            ("prefix /", "prefix /admin", true),
            ("prefix /", "template /a/{x}", true),
            ("prefix /a", "exact /a", true),
            ("prefix /a", "exact /a/b", true),
            ("prefix /a", "prefix /a", true),
            ("prefix /a", "prefix /a/b", true),
            ("prefix /a", "template /a/{x}", true),
            ("prefix /a", "prefix /ab", false),
            ("prefix /a", "template /{x}/b", false),
            ("prefix /a/b", "template /a/{x}", false),
            ("exact /a", "exact /a", true),
            ("exact /a", "template /a", true),
            ("exact /a", "exact /a/", false),
            ("exact /a", "prefix /a", false),
            ("template /{x}", "exact /a", true),
            ("template /{x}", "exact /", false),
            ("template /{x}", "template /{y}", true),
            ("template /{x}/b", "template /a/b", true),
            ("template /a/{x}", "template /{y}/b", false),
            ("template /{x}", "template /{x}/", false),
            ("template /{x}", "prefix /a", false),
        ] {
            let found = hidden(vec![rule(earlier, &[], &[]), rule(later, &[], &[])]);
            assert_eq!(found, expected.then(|| vec![0]), "{earlier}, {later}");
        }
    }

    #[test]
    fn methods_and_hosts_are_covered_by_one_or_more_rules() {
        let all = "prefix /";
        let at = |methods: &[&str], hosts: &[&str]| rule(all, methods, hosts);
        assert_eq!(hidden(vec![at(&["GET"], &[]), at(&[], &[])]), None);
        assert_eq!(hidden(vec![at(&["GET"], &[]), at(&["HEAD"], &[])]), Some(vec![0]));
        assert_eq!(hidden(vec![at(&["HEAD"], &[]), at(&["GET"], &[])]), None);
        assert_eq!(hidden(vec![at(&["GET"], &[]), at(&["POST"], &[]), at(&["POST", "GET"], &[])]), Some(vec![0, 1]));
        assert_eq!(hidden(vec![at(&["GET"], &[]), at(&["POST", "GET"], &[])]), None);
        assert_eq!(
            hidden(vec![at(&[], &["*.example.com"]), at(&[], &["a.example.com", "*.b.example.com"])]),
            Some(vec![0])
        );
        assert_eq!(hidden(vec![at(&[], &["*.example.com"]), at(&[], &["example.com"])]), None);
        assert_eq!(hidden(vec![at(&[], &["a.example.com"]), at(&[], &[])]), None);
        let ambiguous = Rule { ambiguous_paths: true, ..at(&[], &[]) };
        assert_eq!(hidden(vec![at(&[], &[]), ambiguous.clone()]), None);
        assert_eq!(hidden(vec![ambiguous, at(&[], &[])]), Some(vec![0]));
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let path = prop::sample::select(vec![
            "prefix /",
            "prefix /a",
            "prefix /a/b",
            "exact /a",
            "exact /a/b",
            "exact /",
            "template /{x}",
            "template /{x}/b",
            "template /a/{x}",
            "template /A/b",
        ]);
        let methods = prop::sample::select(vec![&[][..], &["GET"], &["POST"], &["GET", "POST"], &["HEAD"]]);
        let hosts = prop::sample::select(vec![&[][..], &["h.x"], &["*.x"], &["*.h.x", "x"]]);
        (path, methods, hosts).prop_map(|(path, methods, hosts)| rule(path, methods, hosts))
    }

    proptest! {
        #[test]
        fn a_hidden_rule_never_decides_and_another_does_for_some_request(
            rules in prop::collection::vec(any_rule(), 1..6), ignore_case: bool,
        ) {
            let rules = Rules { rules, ignore_case };
            for number in 0..rules.rules.len() {
                let is_hidden = rules.hidden_by(number).is_some();
                let mut others = rules.clone();
                others.rules.truncate(number + 1);
                let own = &rules.rules[number].route;
                let mut decides = false;
                for method in ["GET", "HEAD", "POST", "PUT"] {
                    for host in ["h.x", "x", "a.h.x", "y"] {
                        for path in ["/", "/a", "/A", "/b", "/a/b", "/A/b", "/c/b", "/a/c", "/a/b/c", "/c/d/e"] {
                            let target = Target { method: method.as_bytes(), host: host.as_bytes(), path: path.as_bytes() };
                            let route = others.route(&target);
                            decides |= route.is_some_and(|route| std::ptr::eq(route, &raw const others.rules[number].route));
                        }
                    }
                }
                prop_assert!(!(is_hidden && decides), "{:?} {:?}", number, own);
            }
        }
    }
}
