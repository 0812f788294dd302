//! What was answered, and what must therefore be there: the oracle, which knows no server and does no I/O.
//!
//! A change that was acknowledged is there. One that was answered "not made" is not. One whose outcome is unknown, because the
//! answer said so or never came, may be either; and once it was seen, it stays.

use keyward_core::key::digest::Digest;
use std::collections::{BTreeMap, BTreeSet};

/// What a client was told of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was acknowledged.
    Made,
    /// It was refused.
    NotMade,
    /// The answer said that the outcome is unknown, or there was no answer.
    Unknown,
}

/// A secret that the server handed out, or a client imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The public ids of the key and the secret; an import tells none.
    pub ids: Option<(String, String)>,
    /// Where an edge finds it.
    pub digest: Digest,
}

/// When a change was under way: between which starts of the server, counted by [`Oracle::restarted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct During {
    /// The run of the server in which it was sent first.
    pub begin: u32,
    /// The run of the server in which it was sent last.
    pub end: u32,
}

/// What was answered so far.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    keys: BTreeMap<String, Key>,
    plans: BTreeMap<String, Plan>,
    run: u32,
    answers: u64,
}

#[derive(Clone, Debug)]
struct Key {
    created: Outcome,
    /// What was handed out for it, and is to be there.
    secrets: Vec<Secret>,
    /// How many more rotations there may be.
    maybe_rotated: usize,
    revoked: Outcome,
}

#[derive(Clone, Debug, Default)]
struct Plan {
    acknowledged: Option<(u64, During)>,
    unknown: Vec<(u64, During)>,
}

/// What a server says of its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Its keys by their names, which clients never use twice.
    pub keys: BTreeMap<String, Vec<ObservedKey>>,
    /// The limit of each plan.
    pub plans: BTreeMap<String, u64>,
    /// What an edge is told: the key of each secret, and whether it is revoked.
    pub edge: BTreeMap<Digest, (String, bool)>,
}

/// A key as a server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedKey {
    /// Its public id.
    pub id: String,
    /// Whether it is revoked.
    pub revoked: bool,
    /// The public ids of its secrets.
    pub secrets: BTreeSet<String>,
}

/// A promise that a server did not keep.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Something acknowledged is missing.
    #[error("lost: {0}")]
    Lost(String),
    /// Something is there that was answered "not made", or that nobody asked for.
    #[error("made though refused or never asked for: {0}")]
    Phantom(String),
    /// Something is there more than once.
    #[error("made more than once: {0}")]
    Repeated(String),
    /// The edges are told something else than the API tells.
    #[error("the edges are told otherwise: {0}")]
    Diverged(String),
}

impl Oracle {
    /// The run of the server that is under way.
    pub fn run(&self) -> u32 {
        self.run
    }

    /// The server that ran has ended: what was sent to it and has not been done will not be.
    pub fn restarted(&mut self) {
        self.run += 1;
    }

    /// How many answers it knows that are not "unknown".
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// What came of creating or importing a key of this name.
    pub fn created(&mut self, name: &str, outcome: Outcome, secret: Option<Secret>) {
        self.count(outcome);
        let (secrets, revoked) = (secret.into_iter().collect(), Outcome::NotMade);
        self.keys.insert(name.to_owned(), Key { created: outcome, secrets, maybe_rotated: 0, revoked });
    }

    /// What came of rotating the secret of this key.
    ///
    /// # Panics
    /// When no such key was created.
    pub fn rotated(&mut self, name: &str, outcome: Outcome, secret: Option<Secret>) {
        self.count(outcome);
        let key = self.keys.get_mut(name).expect("a key that was created");
        match outcome {
            Outcome::Made => key.secrets.extend(secret),
            Outcome::NotMade => {}
            Outcome::Unknown => key.maybe_rotated += 1,
        }
    }

    /// What came of revoking this key.
    ///
    /// # Panics
    /// When no such key was created.
    pub fn revoked(&mut self, name: &str, outcome: Outcome) {
        self.count(outcome);
        let key = self.keys.get_mut(name).expect("a key that was created");
        match (key.revoked, outcome) {
            (Outcome::Made, _) | (_, Outcome::NotMade) => {}
            (_, outcome) => key.revoked = outcome,
        }
    }

    /// What came of setting the limit of this plan. Nobody else sets it, and nobody sets a limit twice.
    pub fn plan_set(&mut self, id: &str, limit: u64, outcome: Outcome, during: During) {
        self.count(outcome);
        let plan = self.plans.entry(id.to_owned()).or_default();
        match outcome {
            Outcome::Made => {
                // A request that an earlier run of the server did not do cannot come after this one.
                plan.unknown.retain(|(_, unknown)| unknown.end >= during.begin);
                plan.acknowledged = Some((limit, during));
            }
            Outcome::NotMade => {}
            Outcome::Unknown => plan.unknown.push((limit, during)),
        }
    }

    fn count(&mut self, outcome: Outcome) {
        self.answers += u64::from(outcome != Outcome::Unknown);
    }

    /// Which promises the server did not keep, while nothing is being asked of it.
    pub fn check(&self, observed: &Observed) -> Vec<Violation> {
        let mut violations = Vec::new();
        for (name, found) in &observed.keys {
            match self.keys.get(name) {
                None | Some(Key { created: Outcome::NotMade, .. }) => {
                    violations.push(Violation::Phantom(format!("key {name}")));
                }
                Some(key) => key.check(name, found, &observed.edge, &mut violations),
            }
        }
        for (name, key) in &self.keys {
            if key.created == Outcome::Made && !observed.keys.contains_key(name) {
                violations.push(Violation::Lost(format!("key {name}")));
            }
        }
        for (id, limit) in &observed.plans {
            let Some(plan) = self.plans.get(id) else {
                violations.push(Violation::Phantom(format!("plan {id}")));
                continue;
            };
            if plan.allows(*limit) {
                continue;
            }
            let told = format!("plan {id} has limit {limit}; {plan:?}");
            violations.push(if plan.acknowledged.is_some() { Violation::Lost(told) } else { Violation::Phantom(told) });
        }
        for (id, plan) in &self.plans {
            if plan.acknowledged.is_some() && !observed.plans.contains_key(id) {
                violations.push(Violation::Lost(format!("plan {id}")));
            }
        }
        violations
    }

    /// Remembers what was seen: it was read, so it stays, whatever was answered when it was asked for.
    pub fn settle(&mut self, observed: &Observed) {
        for (name, key) in &mut self.keys {
            let Some([found]) = observed.keys.get(name).map(Vec::as_slice) else { continue };
            if key.created == Outcome::Unknown {
                key.created = Outcome::Made;
            }
            if found.revoked && key.revoked == Outcome::Unknown {
                key.revoked = Outcome::Made;
            }
        }
        for (id, limit) in &observed.plans {
            let Some(plan) = self.plans.get_mut(id) else { continue };
            if let Some(at) = plan.unknown.iter().position(|(unknown, _)| unknown == limit) {
                let (limit, during) = plan.unknown.remove(at);
                plan.acknowledged = Some((limit, during));
            }
        }
    }
}

impl Key {
    fn check(
        &self,
        name: &str,
        found: &[ObservedKey],
        edge: &BTreeMap<Digest, (String, bool)>,
        violations: &mut Vec<Violation>,
    ) {
        let [found] = found else {
            violations.push(Violation::Repeated(format!("key {name}")));
            return;
        };
        match self.revoked {
            Outcome::Made if !found.revoked => violations.push(Violation::Lost(format!("revocation of {name}"))),
            Outcome::NotMade if found.revoked => violations.push(Violation::Phantom(format!("revocation of {name}"))),
            _ => {}
        }
        // One that comes with the key, and whose answer may have been lost.
        let (least, most) = (self.secrets.len().max(1), self.secrets.len().max(1) + self.maybe_rotated);
        let count = found.secrets.len();
        if count < least {
            violations.push(Violation::Lost(format!("a rotation of {name}: {count} secrets and not {least}")));
        } else if count > most {
            violations.push(Violation::Phantom(format!("a rotation of {name}: {count} secrets, at most {most}")));
        }
        for Secret { ids, digest } in &self.secrets {
            if let Some((key_id, secret_id)) = ids
                && (found.id != *key_id || !found.secrets.contains(secret_id))
            {
                violations.push(Violation::Lost(format!("secret {secret_id} of {name}")));
            }
            match edge.get(digest) {
                None => violations.push(Violation::Diverged(format!("a secret of {name} is unknown"))),
                Some((key_id, revoked)) if *key_id != found.id || *revoked != found.revoked => {
                    violations.push(Violation::Diverged(format!("{name} is {key_id}, revoked: {revoked}; {found:?}")));
                }
                Some(_) => {}
            }
        }
    }
}

impl Plan {
    fn allows(&self, limit: u64) -> bool {
        self.acknowledged.iter().chain(&self.unknown).any(|(allowed, _)| *allowed == limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DURING: During = During { begin: 0, end: 0 };

    fn secret(of: &str, n: u8) -> Secret {
        Secret { ids: Some((format!("key_{of}"), format!("sec_{of}_{n}"))), digest: digest(of, n) }
    }

    fn digest(of: &str, n: u8) -> Digest {
        Digest::of_key(format!("{of} {n}").as_bytes())
    }

    /// A server that holds just what it acknowledged, and some of what it did not answer.
    #[derive(Default)]
    struct Honest {
        oracle: Oracle,
        observed: Observed,
    }

    impl Honest {
        fn create(&mut self, name: &str, outcome: Outcome, done: bool) {
            self.oracle.created(name, outcome, (outcome == Outcome::Made).then(|| secret(name, 0)));
            if done {
                let key = ObservedKey {
                    id: format!("key_{name}"),
                    revoked: false,
                    secrets: BTreeSet::from([format!("sec_{name}_0")]),
                };
                self.observed.keys.insert(name.to_owned(), vec![key]);
                self.observed.edge.insert(digest(name, 0), (format!("key_{name}"), false));
            }
        }

        fn rotate(&mut self, name: &str, n: u8, outcome: Outcome, done: bool) {
            self.oracle.rotated(name, outcome, (outcome == Outcome::Made).then(|| secret(name, n)));
            if done {
                let revoked = self.key(name).revoked;
                self.key(name).secrets.insert(format!("sec_{name}_{n}"));
                self.observed.edge.insert(digest(name, n), (format!("key_{name}"), revoked));
            }
        }

        fn revoke(&mut self, name: &str, outcome: Outcome, done: bool) {
            self.oracle.revoked(name, outcome);
            if done {
                self.key(name).revoked = true;
                let id = format!("key_{name}");
                self.observed.edge.values_mut().filter(|(key, _)| *key == id).for_each(|(_, revoked)| *revoked = true);
            }
        }

        fn set_plan(&mut self, limit: u64, outcome: Outcome, done: bool) {
            self.oracle.plan_set("plan", limit, outcome, DURING);
            if done {
                self.observed.plans.insert("plan".to_owned(), limit);
            }
        }

        fn key(&mut self, name: &str) -> &mut ObservedKey {
            &mut self.observed.keys.get_mut(name).unwrap()[0]
        }
    }

    /// What was asked, what was answered, and whether it was done where that was not said.
    fn history() -> impl Strategy<Value = Vec<(u8, u8, bool)>> {
        prop::collection::vec((0..6_u8, 0..3_u8, any::<bool>()), 1..40)
    }

    fn replay(history: &[(u8, u8, bool)]) -> Honest {
        let mut server = Honest::default();
        // One of everything is acknowledged, so that there is something to lose.
        server.create("first", Outcome::Made, true);
        server.rotate("first", 1, Outcome::Made, true);
        server.create("revoked", Outcome::Made, true);
        server.revoke("revoked", Outcome::Made, true);
        server.set_plan(1, Outcome::Made, true);
        for (n, (what, outcome, done)) in (2_u8..).zip(history) {
            let outcome = [Outcome::Made, Outcome::NotMade, Outcome::Unknown][usize::from(*outcome)];
            let done = outcome == Outcome::Made || (outcome == Outcome::Unknown && *done);
            match what {
                0..=2 => server.create(&format!("key {n}"), outcome, done),
                3 => server.rotate("first", n, outcome, done),
                4 => server.set_plan(n.into(), outcome, done),
                _ => {
                    let name = format!("key {n}");
                    server.create(&name, Outcome::Made, true);
                    server.revoke(&name, outcome, done);
                }
            }
        }
        server
    }

    proptest! {
        #[test]
        fn an_honest_server_violates_nothing(history in history()) {
            let mut server = replay(&history);
            prop_assert_eq!(server.oracle.check(&server.observed), vec![]);
            server.oracle.settle(&server.observed);
            prop_assert_eq!(server.oracle.check(&server.observed), vec![]);
        }

        /// Every way to lie about every history is reported.
        #[test]
        fn a_server_that_lies_is_reported(history in history(), lie in 0..11_u8) {
            let Honest { oracle, mut observed } = replay(&history);
            let first = digest("first", 0);
            match lie {
                0 => drop(observed.keys.remove("first")),
                1 => drop(observed.keys.get_mut("first").unwrap()[0].secrets.remove("sec_first_1")),
                2 => observed.keys.get_mut("revoked").unwrap()[0].revoked = false,
                3 => observed.keys.get_mut("first").unwrap()[0].revoked = true,
                4 => { let found = observed.keys["first"][0].clone(); observed.keys.get_mut("first").unwrap().push(found) }
                5 => { let found = observed.keys["first"].clone(); observed.keys.insert("never asked for".to_owned(), found); }
                6 => observed.plans.clear(),
                7 => drop(observed.plans.insert("plan".to_owned(), 1000)),
                8 => drop(observed.edge.remove(&first)),
                9 => observed.edge.get_mut(&first).unwrap().1 = true,
                _ => observed.keys.get_mut("first").unwrap()[0].id = "key_another".to_owned(),
            }
            prop_assert!(!oracle.check(&observed).is_empty(), "lie {} is not noticed", lie);
        }
    }

    #[test]
    fn what_was_answered_not_made_is_reported_where_it_is_there() {
        let mut server = Honest::default();
        server.create("refused", Outcome::NotMade, true);
        assert_eq!(server.oracle.check(&server.observed), [Violation::Phantom("key refused".to_owned())]);
    }

    #[test]
    fn what_was_seen_once_must_stay() {
        let mut server = Honest::default();
        server.create("maybe", Outcome::Unknown, true);
        server.oracle.settle(&server.observed);
        server.observed = Observed::default();
        assert_eq!(server.oracle.check(&server.observed), [Violation::Lost("key maybe".to_owned())]);
    }

    #[test]
    fn an_unknown_change_comes_late_only_while_the_server_runs_that_was_asked() {
        let mut oracle = Oracle::default();
        let observed = |limit| Observed { plans: BTreeMap::from([("plan".to_owned(), limit)]), ..Observed::default() };
        oracle.plan_set("plan", 1, Outcome::Unknown, DURING);
        oracle.plan_set("plan", 2, Outcome::Made, DURING);
        assert_eq!(oracle.check(&observed(1)), []);
        oracle.restarted();
        oracle.plan_set("plan", 3, Outcome::Made, During { begin: oracle.run(), end: oracle.run() });
        assert!(matches!(oracle.check(&observed(1))[..], [Violation::Lost(_)]));
        assert!(matches!(oracle.check(&observed(2))[..], [Violation::Lost(_)]));
        assert_eq!(oracle.check(&observed(3)), []);
    }
}
