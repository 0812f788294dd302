//! Pages of the feed, each preceded by its length in two bytes, applied in sequence to an in-memory store: the
//! application of every page terminates, and a revoked key stays revoked unless it is removed.

#![no_main]

use keyward_core::key::digest::Digest;
use keyward_core::wire::entry::{Body, Frames};
use keyward_core::wire::page::{Page, seal};
use keyward_filter::engine::feed::{Application, Asked, Now, Progress};
use keyward_filter::engine::snapshot::{Found, Snapshot};
use keyward_filter::engine::store::{Conflict, Names, SharedStore, Stored};
use libfuzzer_sys::fuzz_target;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

const BITS: u32 = 2;
const NOW: Now = Now { monotonic_ms: 100_000, wall_ms: 1_700_000_000_000 };
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// One step per bucket, the status, the cursor, and the final one without work.
const MOST_STEPS: u32 = (1 << BITS) + 3;

fuzz_target!(|data: &[u8]| {
    let (store, names) = (Memory::default(), Names::new("c", "a", BITS));
    let mut subjects = BTreeSet::new();
    let mut rest = data;
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let (bytes, tail) = tail.split_at(usize::from(u16::from_le_bytes(*length)).min(tail.len()));
        rest = tail;
        let _ = Frames::new(bytes).map_while(Result::ok).filter(|frame| frame.decode().is_ok()).count();
        // As received: the checksum is rarely valid. The rest is tried with a valid one.
        let damaged = Page::decode(bytes).is_err();
        let mut bytes = bytes.to_vec();
        seal(&mut bytes);
        let Ok(page) = Page::decode(&bytes) else {
            assert!(damaged);
            continue;
        };
        refuse_damaged(&store, &names, &bytes);
        assert_eq!(Page::decode(&page.encode()), Ok(page));
        let asked = Asked::read(&store, &names, false);
        // As received, and as the response to the request.
        apply(&store, &names, &asked, &page, &mut subjects);
        let asked = Asked::read(&store, &names, false);
        let page = Page { answers: asked.position, ..page };
        if Page::decode(&page.encode()).is_ok() {
            apply(&store, &names, &asked, &page, &mut subjects);
        }
    }
});

/// A page with one flipped bit is rejected.
fn refuse_damaged(store: &Memory, names: &Names, page: &[u8]) {
    let asked = Asked::read(store, names, false);
    let place = page.len() * usize::from(page.last().copied().unwrap_or_default()) / 256;
    let mut damaged = page.to_vec();
    if let Some(byte) = damaged.get_mut(place) {
        *byte ^= 1 << (place % 8);
        assert!(Application::begin(store, names, BITS, &asked, damaged).is_err(), "a flipped bit was not detected");
    }
}

fn apply(store: &Memory, names: &Names, asked: &Asked, page: &Page<'_>, subjects: &mut BTreeSet<Digest>) {
    // Revocations past their retention may be dropped.
    let is_recent =
        |subject: &Digest| revoked_at_ms(store, names, subject).is_some_and(|at| at >= NOW.wall_ms - DAY_MS);
    let revoked: Vec<Digest> = subjects.iter().copied().filter(is_recent).collect();
    let Ok(mut application) = Application::begin(store, names, BITS, asked, page.encode()) else { return };
    let mut steps = 0;
    while application.step(store, names, NOW).is_ok_and(|progress| progress == Progress::More) {
        steps += 1;
        assert!(steps <= MOST_STEPS, "the page does not terminate");
    }
    let mut removed = BTreeSet::new();
    for frame in Frames::new(page.entries).map_while(Result::ok) {
        subjects.insert(frame.subject);
        if frame.decode() == Ok(Body::Removed) {
            removed.insert(frame.subject);
        }
    }
    for subject in revoked {
        assert!(
            removed.contains(&subject) || revoked_at_ms(store, names, &subject).is_some(),
            "{subject:?} is no longer revoked"
        );
    }
}

/// When a key was revoked, as a request with it would see.
fn revoked_at_ms(store: &Memory, names: &Names, subject: &Digest) -> Option<u64> {
    let mut snapshot = Snapshot::new(names.clone(), BITS, 8);
    snapshot.poll(store, NOW.monotonic_ms);
    match snapshot.find(store, subject, [*subject]) {
        Found::Key(holder) => holder.key.revoked_at_ms,
        Found::Nothing | Found::Unreadable => None,
    }
}

/// Envoy's shared data for a single reader.
#[derive(Default)]
struct Memory {
    values: RefCell<BTreeMap<String, Stored>>,
    next_tag: Cell<u32>,
}

impl SharedStore for Memory {
    fn get(&self, name: &str) -> Option<Stored> {
        self.values.borrow().get(name).cloned()
    }

    fn put(&self, name: &str, value: &[u8], expected: Option<u32>) -> Result<(), Conflict> {
        let mut values = self.values.borrow_mut();
        if values.get(name).map(|stored| stored.tag) != expected {
            return Err(Conflict);
        }
        self.next_tag.set(self.next_tag.get() + 1);
        values.insert(name.to_owned(), Stored { bytes: value.to_vec(), tag: self.next_tag.get() });
        Ok(())
    }
}
