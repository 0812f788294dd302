//! Compares the filter's costs with `budget.json`, which `make budget` updates.
//!
//! Host calls and callbacks are compared exactly. Instructions may increase slightly without an update. A large
//! decrease must update the budget, or a later change could use up the gain unnoticed. Another compiler emits different
//! instructions for the same source, so a filter built with another one gets a wider tolerance.

use crate::vm::{Outcome, Vm, toolchain_of_filter};
use crate::{CONFIGURATION, KEY, headers_with, ready_at, ready_with, with_limits};
use keyward_core::key::digest::Digest;
use keyward_core::key::environment::Environment;
use keyward_core::wire::cursor::{Cursor, Position, chain};
use keyward_core::wire::entry::{Body, Entry, KeyRecord};
use keyward_core::wire::page::{Extent, Page};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host_calls/budget.json");
/// In percent of the instructions.
const MORE: u64 = 2;
const LESS: u64 = 10;
const MORE_WITH_ANOTHER_TOOLCHAIN: u64 = 15;

#[derive(Debug, Deserialize, Serialize)]
struct Budget {
    /// The compiler of the measured filter.
    toolchain: String,
    costs: BTreeMap<String, Cost>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
struct Cost {
    instructions: u64,
    host_calls: usize,
    callbacks: usize,
}

impl From<&Outcome> for Cost {
    fn from(outcome: &Outcome) -> Self {
        Self {
            instructions: outcome.instructions,
            host_calls: outcome.calls.values().sum(),
            callbacks: outcome.callbacks.values().sum(),
        }
    }
}

/// The cost of a request from the first callback to the last, after many repetitions: the median, so that neither a
/// growing map nor an expiring lease distorts it.
fn steady(vm: &mut Vm, headers: &[(&str, &str)], verdict: &str) -> Cost {
    (0..16).for_each(|_| drop(vm.life(headers)));
    let mut costs = [0; 9].map(|_| {
        let outcome = vm.life(headers);
        assert_eq!(outcome.properties.get("keyward.verdict").map(String::as_str), Some(verdict));
        Cost::from(&outcome)
    });
    costs.sort();
    costs[4]
}

fn configured(more: &str, change: impl FnOnce(&mut KeyRecord)) -> Vm {
    let configuration = format!(r#"{{"dialect": "exona", "control_plane": {{"cluster": "c"}}{more}}}"#);
    let vm = Vm::start(&configuration, &[("KEYWARD_EDGE_TOKEN", "t")]);
    ready_at(vm, Digest::of_key(KEY.as_bytes()), change)
}

/// The cost of applying a page of this many new keys, in total and in the longest call: a page is applied over several
/// calls.
fn page_of(keys: u32) -> (Cost, Cost) {
    let mut vm = ready_with(|_| {});
    let before = Cursor { epoch: 1, sequence: 2, chain: [0; 16] };
    let mut head = before;
    let mut entries = Vec::new();
    for n in 0..keys {
        let key = KeyRecord { key_id: format!("key_{n:08}"), kind: "key".into(), ..KeyRecord::default() };
        let subject = Digest::of_key(format!("exo_live_{n:036}").as_bytes());
        let mut entry = Vec::new();
        head.sequence += 1;
        Entry { subject, version: head.sequence, body: Body::Key(key) }.encode(&mut entry).unwrap();
        head.chain = chain(&head.chain, &entry);
        entries.extend(entry);
    }
    let answers = Position::Changes { applied: before.sequence, seen: before };
    let page = Page { summary: None, answers, head, extent: Extent::Changes { to: head.sequence }, entries: &entries };
    // The callout after the one that returned the snapshot.
    let mut calls = vec![Cost::from(&vm.answer_callout(2, "200", &page.encode()))];
    while vm.sent().is_empty() {
        assert!(calls.len() < 1000, "the page is never applied: {:?}", vm.log());
        calls.push(Cost::from(&vm.tick_with_outcome()));
    }
    let all = calls.iter().fold(Cost { instructions: 0, host_calls: 0, callbacks: 0 }, |all, call| Cost {
        instructions: all.instructions + call.instructions,
        host_calls: all.host_calls + call.host_calls,
        callbacks: all.callbacks + call.callbacks,
    });
    let bearer = format!("Bearer exo_live_{:036}", keys - 1);
    assert_eq!(vm.life(&headers_with(Some(&bearer))).answer, None, "the page was applied: {:?}", vm.log());
    (all, calls.into_iter().max().unwrap())
}

fn measured() -> Budget {
    let bearer = format!("Bearer {KEY}");
    let good = headers_with(Some(&bearer));
    let mut costs = BTreeMap::new();
    let mut add = |name: &str, cost: Cost| assert_eq!(costs.insert(name.to_owned(), cost), None, "{name}");

    add("allowed", steady(&mut ready_with(|_| {}), &good, "allow"));
    let mut live = ready_with(|key| key.environment = Some(Environment::Live));
    add("allowed, with an environment", steady(&mut live, &good, "allow"));
    let rules = r#", "rules": [{"path": {"prefix": "/"}, "access": "key", "scopes": ["read", "write"]}]"#;
    let mut scoped = configured(rules, |key| key.scopes = ["admin", "read", "write"].map(String::from).into());
    add("allowed, by scopes", steady(&mut scoped, &good, "allow"));
    let mut leased = ready_with(with_limits(&["10000/s", "200000/min"]));
    add("allowed, with limits that are leased", steady(&mut leased, &good, "allow"));
    let mut shared = ready_with(with_limits(&["100/s", "500/min"]));
    add("allowed, with limits that are not leased", steady(&mut shared, &good, "allow"));
    let mut reported = configured(r#", "rate_limit_headers": {"standard": "always"}"#, with_limits(&["10000/s"]));
    add("allowed, with rate-limit headers", steady(&mut reported, &good, "allow"));

    let public = r#", "rules": [{"path": {"prefix": "/"}, "access": "public"}]"#;
    add("public", steady(&mut configured(public, |_| {}), &headers_with(None), "public"));

    let refused = [
        ("missing", None),
        ("malformed", Some("Bearer nonsense")),
        ("unknown", Some("Bearer exo_live_yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy")),
    ];
    for (verdict, authorization) in refused {
        let cost = steady(&mut ready_with(|_| {}), &headers_with(authorization), verdict);
        add(&format!("refused, {verdict}"), cost);
    }
    let mut expired = ready_with(|key| key.expires_at_ms = Some(1));
    add("refused, expired", steady(&mut expired, &good, "expired"));
    let mut limited = ready_with(with_limits(&["1/min"]));
    add("refused, rate_limited", steady(&mut limited, &good, "rate_limited"));

    let mut idle = ready_with(|_| {});
    idle.run_ms(5000);
    let mut ticks = [0; 40].map(|_| Cost::from(&idle.run_ms_with_outcome(25)));
    ticks.sort();
    add("idle tick", ticks[20]);
    add("40 idle ticks", Cost::from(&idle.run_ms_with_outcome(1000)));

    let ((few, _), (many, _)) = (page_of(64), page_of(128));
    add("a page of 64 entries", few);
    add("the longest call for a page of 1000 entries", page_of(1000).1);
    let more = Cost {
        instructions: many.instructions - few.instructions,
        host_calls: many.host_calls - few.host_calls,
        callbacks: many.callbacks - few.callbacks,
    };
    add("64 entries more in a page", more);
    Budget { toolchain: toolchain_of_filter().to_owned(), costs }
}

/// Describes how a cost differs from its budget.
fn verdict(cost: Cost, budget: Cost, same_toolchain: bool) -> Option<String> {
    let mut complaints = Vec::new();
    if (cost.host_calls, cost.callbacks) != (budget.host_calls, budget.callbacks) {
        complaints.push("different calls".to_owned());
    }
    let percent = |percent: u64| budget.instructions * percent;
    let more = if same_toolchain { MORE } else { MORE_WITH_ANOTHER_TOOLCHAIN };
    if cost.instructions * 100 > percent(100 + more) {
        complaints.push(format!("over {more} % more instructions"));
    } else if same_toolchain && cost.instructions * 100 < percent(100 - LESS) {
        complaints.push(format!("over {LESS} % fewer instructions: lower the budget"));
    }
    (!complaints.is_empty()).then(|| complaints.join(", "))
}

/// Compares every case with its budget; returns whether all match, and a table.
fn compared(now: &Budget, budget: &Budget) -> (bool, String) {
    let same_toolchain = now.toolchain == budget.toolchain;
    let mut within = true;
    let mut table =
        format!("{:42} {:>12} {:>12}   {:>12} {:>12}\n", "", "host calls", "callbacks", "instructions", "budget");
    let names: BTreeSet<&String> = now.costs.keys().chain(budget.costs.keys()).collect();
    for name in names {
        let (cost, allowed) = (now.costs.get(name), budget.costs.get(name));
        let said = match (cost, allowed) {
            (Some(cost), Some(allowed)) => verdict(*cost, *allowed, same_toolchain),
            (Some(_), None) => Some("has no budget".to_owned()),
            (None, _) => Some("is not measured".to_owned()),
        };
        within &= said.is_none();
        let beside = |field: fn(&Cost) -> u64| {
            let figure = |cost: Option<&Cost>| cost.map_or_else(|| "-".to_owned(), |cost| field(cost).to_string());
            (figure(cost), figure(allowed))
        };
        let of = |(now, allowed): (String, String)| if now == allowed { now } else { format!("{now} not {allowed}") };
        let (instructions, budgeted) = beside(|cost| cost.instructions);
        writeln!(
            table,
            "{name:42} {:>12} {:>12}   {instructions:>12} {budgeted:>12} {}",
            of(beside(|cost| cost.host_calls as u64)),
            of(beside(|cost| cost.callbacks as u64)),
            said.unwrap_or_default(),
        )
        .unwrap();
    }
    (within, table)
}

#[test]
fn no_request_costs_more_than_its_budget() {
    let now = measured();
    if std::env::var_os("KEYWARD_UPDATE_BUDGET").is_some() {
        let text = serde_json::to_string_pretty(&now).unwrap();
        std::fs::write(Path::new(FILE), text + "\n").unwrap();
    }
    let budget: Budget = serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap();
    let (within, table) = compared(&now, &budget);
    println!("{table}");
    assert!(
        within,
        "\n{table}\nThe budget (tests/host_calls/budget.json) is for a filter built with {}, this one was built with {}.\n\
        If the new cost is intended, run `make budget`, and commit the budget with the change and a reason.",
        budget.toolchain, now.toolchain,
    );
}

#[test]
fn repeated_measurement_is_identical() {
    let bearer = format!("Bearer {KEY}");
    let [first, second] = [(); 2].map(|()| {
        let vm = Vm::start(CONFIGURATION, &[("KEYWARD_EDGE_TOKEN", "t")]);
        let mut vm = ready_at(vm, Digest::of_key(KEY.as_bytes()), |_| {});
        [0; 4].map(|_| Cost::from(&vm.life(&headers_with(Some(&bearer)))))
    });
    assert!(first[3].instructions > 1000, "{first:?}");
    assert_eq!(first, second);
}

/// The budget rejects one additional call, 3 % more instructions, and 11 % fewer instructions.
#[test]
fn budget_rejects_one_call_3_percent_more_11_less() {
    let budget = Cost { instructions: 1000, host_calls: 5, callbacks: 9 };
    let said = |cost, same_toolchain| verdict(cost, budget, same_toolchain).unwrap_or_default();
    for instructions in [900, 1000, 1020] {
        assert_eq!(said(Cost { instructions, ..budget }, true), "");
    }
    assert_eq!(said(Cost { instructions: 1021, ..budget }, true), "over 2 % more instructions");
    assert!(said(Cost { instructions: 899, ..budget }, true).contains("lower the budget"));
    for instructions in [1, 1150] {
        assert_eq!(said(Cost { instructions, ..budget }, false), "", "a different toolchain");
    }
    assert_eq!(said(Cost { instructions: 1151, ..budget }, false), "over 15 % more instructions");
    for same_toolchain in [false, true] {
        assert_eq!(said(Cost { host_calls: 6, ..budget }, same_toolchain), "different calls");
        assert_eq!(said(Cost { callbacks: 8, ..budget }, same_toolchain), "different calls");
    }
    let of = |costs: &[(&str, Cost)]| Budget {
        toolchain: "rustc".to_owned(),
        costs: costs.iter().map(|(name, cost)| ((*name).to_owned(), *cost)).collect(),
    };
    assert!(compared(&of(&[("a", budget)]), &of(&[("a", budget)])).0);
    assert!(!compared(&of(&[("a", budget)]), &of(&[])).0, "a case without a budget");
    assert!(!compared(&of(&[]), &of(&[("a", budget)])).0, "a budget without a case");
}
