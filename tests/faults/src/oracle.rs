//! The oracle: derives from the responses what state must exist. It knows no server and does no I/O.
//!
//! An acknowledged change exists. A refused change does not. A change with an unknown outcome, because the response
//! said so or never came, may exist or not; once observed, it persists.

use keyward_core::key::digest::Digest;
use std::collections::{BTreeMap, BTreeSet};

/// The outcome of a change according to its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The change was acknowledged.
    Made,
    /// The change was refused.
    NotMade,
    /// The response said that the outcome is unknown, or there was no response.
    Unknown,
}

/// A secret issued by the server, or imported by a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The public ids of the key and the secret; an import returns none.
    pub ids: Option<(String, String)>,
    /// The digest by which an edge finds the secret.
    pub digest: Digest,
}

/// When a change was in flight: between which runs of the server, counted by [`Oracle::restarted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct During {
    /// The server's run in which the request was first sent.
    pub begin: u32,
    /// The server's run in which the request was last sent.
    pub end: u32,
}

/// The responses so far.
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
    /// The secrets issued for the key, which must exist.
    secrets: Vec<Secret>,
    /// The number of possible additional rotations.
    maybe_rotated: usize,
    revoked: Outcome,
}

#[derive(Clone, Debug, Default)]
struct Plan {
    acknowledged: Option<(u64, During)>,
    unknown: Vec<(u64, During)>,
}

/// The observed state of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The keys by name; clients never reuse a name.
    pub keys: BTreeMap<String, Vec<ObservedKey>>,
    /// The limit of each plan.
    pub plans: BTreeMap<String, u64>,
    /// The feed's entries: the key of each secret, and whether it is revoked.
    pub edge: BTreeMap<Digest, (String, bool)>,
}

/// A key as listed by the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedKey {
    /// Its public id.
    pub id: String,
    /// Whether it is revoked.
    pub revoked: bool,
    /// The public ids of its secrets.
    pub secrets: BTreeSet<String>,
}

/// A guarantee that the server violated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An acknowledged change is missing.
    #[error("lost: {0}")]
    Lost(String),
    /// A change exists that was refused, or that no client requested.
    #[error("made although refused or never requested: {0}")]
    Phantom(String),
    /// A change exists more than once.
    #[error("made more than once: {0}")]
    Repeated(String),
    /// The feed differs from the API.
    #[error("feed and API differ: {0}")]
    Diverged(String),
}

impl Oracle {
    /// The current run of the server.
    pub fn run(&self) -> u32 {
        self.run
    }

    /// Records that the server has exited: requests that were sent to it and not done will not be done.
    pub fn restarted(&mut self) {
        self.run += 1;
    }

    /// The number of responses with a known outcome.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// Records the outcome of creating or importing a key of this name.
    pub fn created(&mut self, name: &str, outcome: Outcome, secret: Option<Secret>) {
        self.count(outcome);
        let (secrets, revoked) = (secret.into_iter().collect(), Outcome::NotMade);
        self.keys.insert(name.to_owned(), Key { created: outcome, secrets, maybe_rotated: 0, revoked });
    }

    /// Records the outcome of rotating this key's secret.
    ///
    /// # Panics
    /// If no such key was created.
    pub fn rotated(&mut self, name: &str, outcome: Outcome, secret: Option<Secret>) {
        self.count(outcome);
        let key = self.keys.get_mut(name).expect("a key that was created");
        match outcome {
            Outcome::Made => key.secrets.extend(secret),
            Outcome::NotMade => {}
            Outcome::Unknown => key.maybe_rotated += 1,
        }
    }

    /// Records the outcome of revoking this key.
    ///
    /// # Panics
    /// If no such key was created.
    pub fn revoked(&mut self, name: &str, outcome: Outcome) {
        self.count(outcome);
        let key = self.keys.get_mut(name).expect("a key that was created");
        match (key.revoked, outcome) {
            (Outcome::Made, _) | (_, Outcome::NotMade) => {}
            (_, outcome) => key.revoked = outcome,
        }
    }

    /// Records the outcome of setting this plan's limit. A plan has one client, which never sets the same limit twice.
    pub fn plan_set(&mut self, id: &str, limit: u64, outcome: Outcome, during: During) {
        self.count(outcome);
        let plan = self.plans.entry(id.to_owned()).or_default();
        match outcome {
            Outcome::Made => {
                // A request that an earlier run of the server did not do cannot be done after this one.
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

    /// The violations in the observed state, while no requests are in flight.
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
            let what = format!("plan {id} has limit {limit}; {plan:?}");
            violations.push(if plan.acknowledged.is_some() { Violation::Lost(what) } else { Violation::Phantom(what) });
        }
        for (id, plan) in &self.plans {
            if plan.acknowledged.is_some() && !observed.plans.contains_key(id) {
                violations.push(Violation::Lost(format!("plan {id}")));
            }
        }
        violations
    }

    /// Records the observed state: a change that was read persists, whatever its response.
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
        // Every key has a first secret, even if the response to its creation was lost.
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

    /// A server that holds exactly what it acknowledged, and some of the changes with unknown outcomes.
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

    /// The request, the response, and whether a change with an unknown outcome was done.
    fn history() -> impl Strategy<Value = Vec<(u8, u8, bool)>> {
        prop::collection::vec((0..6_u8, 0..3_u8, any::<bool>()), 1..40)
    }

    fn replay(history: &[(u8, u8, bool)]) -> Honest {
        let mut server = Honest::default();
        // Each kind of change is acknowledged once, so that there is something to lose.
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
        fn honest_server_violates_nothing(history in history()) {
            let mut server = replay(&history);
            prop_assert_eq!(server.oracle.check(&server.observed), vec![]);
            server.oracle.settle(&server.observed);
            prop_assert_eq!(server.oracle.check(&server.observed), vec![]);
        }

        /// Every kind of violation in every history is reported.
        #[test]
        fn lying_server_is_reported(history in history(), lie in 0..11_u8) {
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
            prop_assert!(!oracle.check(&observed).is_empty(), "violation {} is not reported", lie);
        }
    }

    #[test]
    fn refused_change_that_exists_is_reported() {
        let mut server = Honest::default();
        server.create("refused", Outcome::NotMade, true);
        assert_eq!(server.oracle.check(&server.observed), [Violation::Phantom("key refused".to_owned())]);
    }

    #[test]
    fn change_observed_once_must_persist() {
        let mut server = Honest::default();
        server.create("maybe", Outcome::Unknown, true);
        server.oracle.settle(&server.observed);
        server.observed = Observed::default();
        assert_eq!(server.oracle.check(&server.observed), [Violation::Lost("key maybe".to_owned())]);
    }

    /// A change with an unknown outcome can happen late only while the server's run that received it lasts.
    #[test]
    fn late_unknown_change_is_possible_in_its_run_only() {
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
