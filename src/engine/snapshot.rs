//! What one worker sees of the snapshot: the status it polled, and records by digest, cached as long as they are true.

use crate::engine::bucket;
use crate::engine::cache::Cache;
use crate::engine::leader::continuous_since_ms;
use crate::engine::limiter::KeyHash;
use crate::engine::shared_state::Status;
use crate::engine::store::{Names, SharedStore};
use keyward_core::authorize::{KeyView, OwnerView};
use keyward_core::key::digest::Digest;
use keyward_core::key::limit::Limits;
use keyward_core::wire::entry::{Body, KeyRecord, OwnerRecord, PlanRecord};
use std::cell::OnceCell;
use std::rc::Rc;

/// The snapshot, as one worker sees it.
#[derive(Debug)]
pub struct Snapshot {
    names: Names,
    bucket_bits: u32,
    status: Status,
    status_tag: Option<u32>,
    polled_at_ms: Option<u64>,
    /// Since when the feed must have answered, in milliseconds; `None` before the first poll.
    answered_since_ms: Option<u64>,
    cache: Cache<Cached>,
}

/// What the snapshot says of a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A key, with what its owner and its plan add.
    Key(Rc<ResolvedKey>),
    /// No key has this digest.
    Nothing,
    /// There is an entry, and it cannot be understood: it refuses.
    Unreadable,
}

/// A header field that identifies the caller to the upstream.
pub type IdentityField = (&'static str, String);

/// A key, its owner and its plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedKey {
    /// The key.
    pub key: KeyRecord,
    /// What decides for its owner.
    pub owner: OwnerState,
    /// What decides for its plan.
    pub plan: PlanState,
    /// What [`upstream_headers`](crate::engine::upstream_headers) makes of it, once for all requests with the key.
    pub(in crate::engine) identity: OnceCell<Vec<IdentityField>>,
    /// What the key's limits are counted under, also made once.
    limit_hash: OnceCell<KeyHash>,
}

/// What is known of a key's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// The key names no owner.
    Unowned,
    /// The owner's record.
    Known(OwnerRecord),
    /// The key names an owner that the snapshot does not know, or cannot read: the key is refused.
    Unknown,
}

/// What is known of a key's plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanState {
    /// The key names no plan.
    NoPlan,
    /// The plan's record.
    Known(PlanRecord),
    /// The key names a plan that the snapshot does not know, or cannot read: the key is refused.
    Unknown,
}

#[derive(Debug)]
struct Cached {
    holder: Rc<ResolvedKey>,
    read: Vec<StripeRead>,
}

/// A stripe of which a bucket was read, and its count at that time.
#[derive(Debug)]
struct StripeRead {
    stripe: usize,
    count: u32,
}

/// How often the stripes of some addresses had changed at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadVersions(Vec<(usize, u32)>);

/// A status older than this is read again before it is relied on, in milliseconds: workers poll twice as often, so
/// this catches a worker whose ticks are late.
pub const STATUS_TRUSTED_MS: u64 = 50;

impl Snapshot {
    /// A view that has read nothing yet.
    pub fn new(names: Names, bucket_bits: u32, cache_records: usize) -> Self {
        Self {
            names,
            bucket_bits,
            status: Status::START,
            status_tag: None,
            polled_at_ms: None,
            answered_since_ms: None,
            cache: Cache::new(cache_records),
        }
    }

    /// Reads the status.
    pub fn poll(&mut self, store: &impl SharedStore, now_ms: u64) {
        self.polled_at_ms = Some(now_ms);
        // Once: from then on this worker is one of those who look after it.
        self.answered_since_ms.get_or_insert_with(|| continuous_since_ms(store, &self.names, now_ms));
        store.read(&self.names.status, |stored| {
            if let Some((bytes, tag)) = stored
                && self.status_tag != Some(tag)
            {
                self.status = Status::decode(bytes);
                self.status_tag = Some(tag);
            }
        });
    }

    /// Reads the status if the last reading is too old to rely on.
    fn refresh(&mut self, store: &impl SharedStore, now_ms: u64) {
        if self.polled_at_ms.is_none_or(|at| now_ms.saturating_sub(at) > STATUS_TRUSTED_MS) {
            self.poll(store, now_ms);
        }
    }

    /// The status as last read.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Whether there is a complete snapshot which the feed has brought up to date since somebody looks after it, and the
    /// feed answered within `max_staleness_ms` where that is bounded.
    pub fn is_usable(&self, now_ms: u64, max_staleness_ms: Option<u64>) -> bool {
        self.status.generation > 0
            && self.answered_since_ms.is_some_and(|since| self.status.answered_ms >= since)
            && max_staleness_ms.is_none_or(|bound| self.status.age_ms(now_ms) <= bound)
    }

    /// The same, from a status that can be relied on. One that says no is read again: another worker may have said yes.
    pub fn is_usable_now(&mut self, store: &impl SharedStore, now_ms: u64, max_staleness_ms: Option<u64>) -> bool {
        self.refresh(store, now_ms);
        if !self.is_usable(now_ms, max_staleness_ms) {
            self.poll(store, now_ms);
        }
        self.is_usable(now_ms, max_staleness_ms)
    }

    /// What the snapshot says of a key. Call [`is_usable_now`](Self::is_usable_now) first.
    ///
    /// The first of the `addresses` at which there is a record decides. They are asked for only where the key is not
    /// cached, which it is under `digest`, its [`Digest::of_key`], wherever its record lies.
    pub fn find(
        &mut self,
        store: &impl SharedStore,
        digest: &Digest,
        addresses: impl IntoIterator<Item = Digest>,
    ) -> Found {
        let stripes = &self.status.stripes;
        let is_unmoved = |read: &StripeRead| stripes.get(read.stripe) == Some(&read.count);
        if let Some(cached) = self.cache.find(digest)
            && cached.read.iter().all(is_unmoved)
        {
            return Found::Key(Rc::clone(&cached.holder));
        }
        self.load(store, digest, addresses)
    }

    /// A reading of addresses at which [`find`](Self::find) found nothing, for whoever relies on that. Like what is cached,
    /// it is of the status polled before.
    pub fn reading(&self, addresses: impl IntoIterator<Item = Digest>) -> ReadVersions {
        let stripes = addresses.into_iter().map(|address| Status::stripe_of_subject(&address, self.bucket_bits));
        ReadVersions(stripes.filter_map(|stripe| Some((stripe, *self.status.stripes.get(stripe)?))).collect())
    }

    /// Whether nothing has changed since, as far as the status tells.
    pub fn is_unmoved(&self, reading: &ReadVersions) -> bool {
        reading.0.iter().all(|(stripe, count)| self.status.stripes.get(*stripe) == Some(count))
    }

    /// The stripes are those of the status polled *before* the buckets are read, so that a change which comes between
    /// makes what is cached here outdated, never the other way round.
    ///
    /// Those of the addresses before the record's are among them: what comes to lie there decides from then on.
    fn load(
        &mut self,
        store: &impl SharedStore,
        digest: &Digest,
        addresses: impl IntoIterator<Item = Digest>,
    ) -> Found {
        let mut read = Vec::new();
        let mut records = addresses.into_iter().map(|address| self.read(store, &address, &mut read));
        let first = records.find(|record| !matches!(record, Ok(None)));
        drop(records);
        let key = match first {
            Some(Ok(Some(Body::Key(key)))) => key,
            Some(Err(Unreadable)) => return Found::Unreadable,
            _ => return Found::Nothing,
        };
        let owner = match key.owner.as_deref().map(|id| self.read(store, &Digest::of_owner(id), &mut read)) {
            None => OwnerState::Unowned,
            Some(Ok(Some(Body::Owner(owner)))) => OwnerState::Known(owner),
            Some(_) => OwnerState::Unknown,
        };
        let plan = match key.plan.as_deref().map(|name| self.read(store, &Digest::of_plan(name), &mut read)) {
            None => PlanState::NoPlan,
            Some(Ok(Some(Body::Plan(plan)))) => PlanState::Known(plan),
            Some(_) => PlanState::Unknown,
        };
        let holder = Rc::new(ResolvedKey::new(key, owner, plan));
        self.cache.insert(*digest, Cached { holder: Rc::clone(&holder), read });
        Found::Key(holder)
    }

    /// What is known of a subject; the stripe that it lies in is added to those `read`.
    fn read(
        &self,
        store: &impl SharedStore,
        subject: &Digest,
        read: &mut Vec<StripeRead>,
    ) -> Result<Option<Body>, Unreadable> {
        let stripe = Status::stripe_of_subject(subject, self.bucket_bits);
        read.push(StripeRead { stripe, count: self.status.stripes.get(stripe).copied().unwrap_or_default() });
        store.read(&self.names.bucket(subject.leading_bits(self.bucket_bits)), |stored| {
            let Some((bytes, _)) = stored else { return Ok(None) };
            // An emptied value is a bucket that holds nothing; an older generation's was left behind by a stale fetcher.
            if bytes.is_empty() || bucket::stamp_of(bytes).generation < self.status.generation {
                return Ok(None);
            }
            match bucket::find(bytes, subject) {
                Ok(Some(frame)) => frame.decode().map(Some).map_err(|_| Unreadable),
                Ok(None) => Ok(None),
                Err(_) => Err(Unreadable),
            }
        })
    }
}

impl ResolvedKey {
    /// What is known of a key.
    pub fn new(key: KeyRecord, owner: OwnerState, plan: PlanState) -> Self {
        Self { key, owner, plan, identity: OnceCell::new(), limit_hash: OnceCell::new() }
    }

    /// The key as `authorize` sees it. The pattern names all fields, so that a new one does not compile until it is decided
    /// whether it matters here.
    pub fn view(&self) -> KeyView<'_> {
        let KeyRecord {
            revoked_at_ms,
            secret_not_after_ms,
            expires_at_ms,
            paused,
            kind,
            allowlist,
            scopes,
            // Resolved in `self.owner`.
            owner: _,
            // Counted, used for look-ups, or passed to the upstream.
            limits: _,
            plan: _,
            credits_exhausted: _,
            key_id: _,
            secret_id: _,
            environment: _,
            needs_verification: _,
        } = &self.key;
        KeyView {
            is_revoked: revoked_at_ms.is_some(),
            secret_not_after_ms: *secret_not_after_ms,
            expires_at_ms: *expires_at_ms,
            is_paused: *paused,
            owner: self.owner.view(),
            kind,
            allowlist,
            scopes,
        }
    }

    /// What the key's limits are counted under.
    pub fn limit_hash(&self) -> KeyHash {
        *self.limit_hash.get_or_init(|| KeyHash::of(&self.key.key_id))
    }

    /// What the key may use: its own limits, else those of its plan; `None` if neither has any.
    pub fn limits(&self) -> Option<&Limits> {
        let of_plan = match &self.plan {
            PlanState::Known(plan) => plan.limits.as_ref(),
            PlanState::NoPlan | PlanState::Unknown => None,
        };
        self.key.limits.as_ref().or(of_plan)
    }
}

impl OwnerState {
    fn view(&self) -> OwnerView<'_> {
        match self {
            Self::Unowned => OwnerView::None,
            Self::Known(OwnerRecord { disabled, permissions }) => {
                OwnerView::Known { disabled: *disabled, permissions: permissions.as_deref() }
            }
            Self::Unknown => OwnerView::Unknown,
        }
    }
}

struct Unreadable;
