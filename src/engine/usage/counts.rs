//! Usage that one VM has counted and not yet reported. Counting a request is a look-up in a map in memory, without a
//! host call.

use crate::engine::decide::Decision;
use keyward_core::wire::entry::KeyRecord;
use keyward_core::wire::usage::{Batch, BatchId, KeyUsage, MAX_COUNT, MAX_KEYS, Verdicts, is_id};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Counts by secret, for a bounded number of secrets; requests beyond the bound are counted as dropped.
#[derive(Debug)]
pub(super) struct Counts {
    max_secrets: usize,
    secrets: BTreeMap<String, Counted>,
    others: Tally,
    dropped: u64,
    /// How many requests were dropped since the last call of `take_dropped_lately`.
    dropped_lately: u64,
    /// The last secret of the last batch, if there were more. The next batch continues there, so that secrets in
    /// constant use do not block others.
    taken_up_to: Option<String>,
    /// A buffer for the address of a request's secret.
    address: String,
}

/// The counts of one secret.
#[derive(Debug, Default)]
struct Counted {
    last_used_ms: Option<u64>,
    verdicts: Tally,
    credits: u64,
}

/// Counts by verdict name; each secret sees few.
#[derive(Debug, Default)]
struct Tally(Vec<(&'static str, u64)>);

/// Separates the ids of key and secret in an address; ids that contain it are not counted.
const SEPARATOR: char = ' ';

impl Counts {
    pub(super) fn new(max_secrets: usize) -> Self {
        Self {
            max_secrets,
            secrets: BTreeMap::new(),
            others: Tally::default(),
            dropped: 0,
            dropped_lately: 0,
            taken_up_to: None,
            address: String::new(),
        }
    }

    pub(super) fn count(&mut self, decision: &Decision, wall_ms: u64) {
        let Some(key) = decision.key() else {
            return self.others.add(decision.verdict());
        };
        let Some(counted) = self.counted(key) else {
            return self.drop_requests(1);
        };
        counted.verdicts.add(decision.verdict());
        if let Decision::Allow { cost, .. } = decision {
            add(&mut counted.credits, u64::from(cost.get()));
            counted.last_used_ms = counted.last_used_ms.max(Some(wall_ms.min(MAX_COUNT)));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.secrets.is_empty() && self.others.0.is_empty() && self.dropped == 0
    }

    /// Whether the last batch was full.
    pub(super) fn has_more(&self) -> bool {
        self.taken_up_to.is_some()
    }

    /// Removes one batch of counts.
    pub(super) fn take(&mut self, id: BatchId) -> Batch {
        let after = self.taken_up_to.take();
        let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = self.secrets.range::<str, _>((start, Bound::Unbounded)).map(|(address, _)| address.clone());
        let addresses: Vec<String> = behind.by_ref().take(MAX_KEYS).collect();
        let has_more = behind.next().is_some();
        let keys = addresses.iter().filter_map(|address| Some(self.secrets.remove(address)?.into_usage(address)));
        let keys = keys.collect();
        self.taken_up_to = addresses.into_iter().next_back().filter(|_| has_more);
        Batch {
            id,
            keys,
            others: std::mem::take(&mut self.others).into_verdicts(),
            dropped: std::mem::take(&mut self.dropped),
        }
    }

    /// Counts the requests of a batch that will never be accepted as dropped.
    pub(super) fn give_up(&mut self, batch: &Batch) {
        add(&mut self.dropped, batch.dropped);
        self.drop_requests(batch.requests() - batch.dropped);
    }

    /// How many requests were dropped since the last call.
    pub(super) fn take_dropped_lately(&mut self) -> u64 {
        std::mem::take(&mut self.dropped_lately)
    }

    fn counted(&mut self, key: &KeyRecord) -> Option<&mut Counted> {
        self.address.clear();
        self.address.push_str(&key.key_id);
        self.address.push(SEPARATOR);
        self.address.push_str(&key.secret_id);
        if !self.secrets.contains_key(&self.address) {
            let is_reportable = is_id(&key.key_id) && (key.secret_id.is_empty() || is_id(&key.secret_id));
            if !is_reportable || self.secrets.len() >= self.max_secrets {
                return None;
            }
            self.secrets.insert(self.address.clone(), Counted::default());
        }
        self.secrets.get_mut(&self.address)
    }

    fn drop_requests(&mut self, requests: u64) {
        add(&mut self.dropped, requests);
        add(&mut self.dropped_lately, requests);
    }
}

impl Counted {
    fn into_usage(self, address: &str) -> KeyUsage {
        let (key_id, secret_id) = address.split_once(SEPARATOR).unwrap_or((address, ""));
        KeyUsage {
            key_id: key_id.to_owned(),
            secret_id: secret_id.to_owned(),
            last_used_ms: self.last_used_ms,
            verdicts: self.verdicts.into_verdicts(),
            credits: self.credits,
        }
    }
}

impl Tally {
    fn add(&mut self, verdict: &'static str) {
        match self.0.iter_mut().find(|(name, _)| *name == verdict) {
            Some((_, count)) => add(count, 1),
            None => self.0.push((verdict, 1)),
        }
    }

    fn into_verdicts(self) -> Verdicts {
        self.0.into_iter().map(|(verdict, count)| (verdict.to_owned(), count)).collect()
    }
}

/// Saturates at the largest count that can be reported.
fn add(count: &mut u64, more: u64) {
    *count = count.saturating_add(more).min(MAX_COUNT);
}
