//! One bucket of the snapshot: the records whose digests share their leading bits, and the feed position they reflect.
//!
//! A bucket is replaced as a whole. Its stamp only rises, so a fetcher that fell behind cannot undo anything. A record
//! that says *revoked*, or when its secret expires, is never replaced by a record that says less, whatever a restored
//! database sends.
//!
//! A bucket carries a checksum, the summary of its records combined with its stamp, so that corruption in memory is
//! detected: such a bucket still serves, stays marked as damaged, and is replaced by the next snapshot.

use keyward_core::key::digest::Digest;
use keyward_core::wire::entry::{Body, BrokenFraming, Frame, Frames, KeyRecord, UnreadableEntry};
use keyward_core::wire::summary::Summary;

/// The feed position that a bucket reflects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamp {
    /// Rises with every snapshot that this process begins.
    pub generation: u32,
    /// The sequence of the feed within the generation.
    pub sequence: u64,
}

/// What is merged into a bucket.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The current state of some subjects.
    Changes,
    /// The state of all subjects from `start` up to, not including, `end`.
    Range {
        /// The first subject.
        start: &'a Digest,
        /// The first subject that is not covered; `None` covers the rest.
        end: Option<&'a Digest>,
    },
}

/// The sum of what readers see in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Content {
    /// The summary of its records.
    pub summary: Summary,
    /// How many records were kept although the control plane sends an older state of them, or none.
    pub kept: u64,
}

/// The result of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The bytes to write; `None` leaves the bucket unchanged.
    pub rewritten: Option<Vec<u8>>,
    /// By how many records the bucket grew.
    pub gained: i64,
    /// How many records the bucket holds within the input's range afterwards.
    pub in_range: u64,
    /// How many incoming frames are unreadable; their subjects are refused.
    pub unreadable: u64,
    /// The content before, as far as it belongs to this generation.
    pub before: Content,
    /// The content afterwards.
    pub after: Content,
    /// Whether the bytes before failed their checksum.
    pub was_damaged: bool,
}

/// How long a revoked record that a snapshot does not mention is kept, in milliseconds: as long as the control plane
/// keeps one, so that no backup younger than this restores a revoked key.
pub const REVOKED_RETENTION_MS: u64 = 30 * 24 * 60 * 60 * 1000;

const STAMP_LENGTH: usize = 4 + 8;
const HEADER_LENGTH: usize = STAMP_LENGTH + Summary::LENGTH;

/// The version of a record that was kept against what the control plane sends. No change has this number, so the next
/// change from the control plane is always newer.
const KEPT: u64 = 0;

/// The record of a subject.
///
/// # Errors
/// If the bucket is unreadable; none of its records can be trusted then.
pub fn find<'a>(bucket: &'a [u8], subject: &Digest) -> Result<Option<Frame<'a>>, BrokenFraming> {
    let Header { frames, .. } = split(bucket).ok_or(BrokenFraming)?;
    for frame in Frames::new(frames) {
        let frame = frame?;
        if frame.subject == *subject {
            return Ok(Some(frame));
        }
    }
    Ok(None)
}

/// The stamp of a bucket; the lowest stamp if the bucket was never written.
pub fn stamp_of(bucket: &[u8]) -> Stamp {
    split(bucket).map_or_else(Stamp::default, |header| header.stamp)
}

/// What readers of a generation see in a bucket; `None` if the bucket is damaged.
pub fn inspect(bucket: &[u8], generation: u32) -> Option<Content> {
    if bucket.is_empty() {
        return Some(Content::default());
    }
    let header = split(bucket)?;
    let content = header.content()?;
    // Left over from a stale fetcher: not read by anyone.
    Some(if header.stamp.generation < generation { Content::default() } else { content })
}

/// Merges frames, sorted by subject, into a bucket.
///
/// Changes need a stamp above the bucket's. A range may repeat with the same stamp, since a bucket can span two pages
/// of a snapshot. `now_ms` is the wall clock, in milliseconds since the Unix epoch.
pub fn merge<'a>(
    bucket: &'a [u8],
    stamp: Stamp,
    incoming: impl IntoIterator<Item = Frame<'a>>,
    input: Input<'_>,
    now_ms: u64,
) -> Outcome {
    let nothing = Header { stamp: Stamp::default(), check: Summary::EMPTY, frames: &[] };
    let (mut old, content) = match split(bucket) {
        Some(old) => (old, old.content()),
        None => (nothing, bucket.is_empty().then(Content::default)),
    };
    let was_damaged = content.is_none();
    if was_damaged && matches!(input, Input::Range { .. }) {
        // The records cannot be trusted, so none is kept.
        old = nothing;
    }
    let Header { stamp: old_stamp, frames: old_frames, .. } = old;
    let content = content.unwrap_or_default();
    let before = || Frames::new(old_frames).map_while(Result::ok);
    let outdated = match input {
        Input::Changes => stamp <= old_stamp && !was_damaged,
        Input::Range { .. } => stamp < old_stamp,
    };
    if outdated {
        let in_range = before().filter(|frame| input.covers(&frame.subject)).count() as u64;
        let (before, after) = (content, content);
        return Outcome { rewritten: None, gained: 0, in_range, unreadable: 0, before, after, was_damaged };
    }
    let survives = |old: &Merged<'_>| {
        let is_retained =
            || refused_at(&old.frame, now_ms).is_some_and(|at| at.saturating_add(REVOKED_RETENTION_MS) > now_ms);
        // A snapshot has passed this subject since without finding the bucket, so a stale fetcher created it. What that
        // fetcher knew to be revoked or expired stays so.
        let was_passed_over = match input {
            Input::Changes => true,
            Input::Range { start, .. } => old.frame.subject < *start,
        };
        match input {
            _ if was_passed_over && old_stamp.generation < stamp.generation => is_retained(),
            Input::Changes => true,
            Input::Range { .. } => !input.covers(&old.frame.subject) || old.version > stamp.sequence || is_retained(),
        }
    };
    let mut incoming: Vec<Frame<'_>> = incoming.into_iter().collect();
    incoming.sort_by_key(|frame| frame.subject);
    let arriving: usize = incoming.iter().map(Frame::encoded_length).sum();
    let mut rewritten = Vec::with_capacity(HEADER_LENGTH + old_frames.len() + arriving);
    rewritten.extend_from_slice(&encoded_stamp(stamp));
    rewritten.extend_from_slice(&Summary::EMPTY.to_bytes());
    let mut after = Content::default();
    let (mut gained, mut in_range, mut unreadable) = (0, 0, 0);
    let (mut old, mut new) = (before().peekable(), incoming.into_iter().peekable());
    while let Some(subject) = first_of(old.peek(), new.peek()) {
        let mut merged = old.next_if(|frame| frame.subject == subject).map(|frame| {
            gained -= 1;
            // Versions of an older generation are not comparable: any incoming frame is newer.
            let version = if old_stamp.generation == stamp.generation { frame.version } else { KEPT };
            Merged { version, frame, is_sent_again: false }
        });
        while let Some(frame) = new.next_if(|frame| frame.subject == subject) {
            let body = frame.decode();
            unreadable += u64::from(body.is_err());
            match &mut merged {
                Some(old) if frame.version <= old.version => old.is_sent_again = true,
                Some(old) if !replaces(&body, old) => (old.version, old.is_sent_again) = (KEPT, true),
                _ if matches!(body, Ok(Body::Removed)) => merged = None,
                _ => merged = Some(Merged { version: frame.version, frame, is_sent_again: true }),
            }
        }
        if let Some(merged) = merged.filter(|merged| merged.is_sent_again || survives(merged)) {
            gained += 1;
            in_range += u64::from(input.covers(&subject));
            let written_from = rewritten.len();
            merged.frame.encode_with_version(merged.version, &mut rewritten);
            after.summary = after.summary.plus(Summary::of(rewritten.get(written_from..).unwrap_or_default()));
            after.kept += u64::from(merged.version == KEPT);
        }
    }
    // A damaged bucket stays marked until a snapshot replaces it.
    let stays_damaged = was_damaged && matches!(input, Input::Changes);
    let check = if stays_damaged { Summary::EMPTY } else { check(stamp, after.summary) };
    if let Some(place) = rewritten.get_mut(STAMP_LENGTH..).and_then(<[u8]>::first_chunk_mut) {
        *place = check.to_bytes();
    }
    let before = if old_stamp.generation < stamp.generation { Content::default() } else { content };
    Outcome { rewritten: Some(rewritten), gained, in_range, unreadable, before, after, was_damaged }
}

impl Content {
    /// The content after a part of it has changed from `before` to `after`.
    #[must_use]
    pub fn changed(self, before: &Self, after: &Self) -> Self {
        Self {
            summary: self.summary.minus(before.summary).plus(after.summary),
            kept: self.kept.saturating_sub(before.kept) + after.kept,
        }
    }
}

/// A bucket, as stored in shared data.
#[derive(Clone, Copy)]
struct Header<'a> {
    stamp: Stamp,
    check: Summary,
    frames: &'a [u8],
}

impl Header<'_> {
    /// The content; `None` if the checksum does not match.
    fn content(&self) -> Option<Content> {
        let mut content = Content::default();
        for frame in Frames::new(self.frames) {
            let frame = frame.ok()?;
            content.summary = content.summary.plus(frame.summary());
            content.kept += u64::from(frame.version == KEPT);
        }
        (check(self.stamp, content.summary) == self.check).then_some(content)
    }
}

fn check(stamp: Stamp, records: Summary) -> Summary {
    records.plus(Summary::of(&encoded_stamp(stamp)))
}

fn encoded_stamp(stamp: Stamp) -> [u8; STAMP_LENGTH] {
    let mut bytes = [0; STAMP_LENGTH];
    let fields = stamp.generation.to_le_bytes().into_iter().chain(stamp.sequence.to_le_bytes());
    bytes.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
    bytes
}

/// The lower subject of two frames.
fn first_of(one: Option<&Frame<'_>>, other: Option<&Frame<'_>>) -> Option<Digest> {
    [one, other].into_iter().flatten().map(|frame| frame.subject).min()
}

/// A record to be written into a bucket.
struct Merged<'a> {
    version: u64,
    frame: Frame<'a>,
    /// Whether the incoming frames have this subject too: it then stays, in whichever state.
    is_sent_again: bool,
}

/// Whether a newer frame with `body` replaces an older one.
fn replaces(body: &Result<Body, UnreadableEntry>, old: &Merged<'_>) -> bool {
    // The expiry of a secret can only move to an earlier time. An unreadable frame refuses without a reason, so a frame
    // that says *revoked* or *expired* stays.
    match body {
        Ok(Body::Removed) => true,
        Ok(Body::Key(key)) => end_of(key) <= frame_end(&old.frame),
        _ => frame_end(&old.frame) == u64::MAX,
    }
}

/// When a secret is no longer accepted, in milliseconds since the Unix epoch: 0 once its key is revoked.
fn end_of(key: &KeyRecord) -> u64 {
    if key.revoked_at_ms.is_some() { 0 } else { key.secret_not_after_ms.unwrap_or(u64::MAX) }
}

fn frame_end(frame: &Frame<'_>) -> u64 {
    match frame.decode() {
        Ok(Body::Key(key)) => end_of(&key),
        _ => u64::MAX,
    }
}

/// Since when a secret has been permanently refused.
fn refused_at(frame: &Frame<'_>, now_ms: u64) -> Option<u64> {
    match frame.decode() {
        Ok(Body::Key(key)) => key.revoked_at_ms.or(key.secret_not_after_ms.filter(|end| *end <= now_ms)),
        _ => None,
    }
}

fn split(bucket: &[u8]) -> Option<Header<'_>> {
    let (generation, rest) = bucket.split_first_chunk::<4>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (check, frames) = rest.split_first_chunk::<{ Summary::LENGTH }>()?;
    let stamp = Stamp { generation: u32::from_le_bytes(*generation), sequence: u64::from_le_bytes(*sequence) };
    Some(Header { stamp, check: Summary::from_bytes(*check), frames })
}

impl Input<'_> {
    fn covers(&self, subject: &Digest) -> bool {
        match self {
            Self::Changes => true,
            Self::Range { start, end } => *start <= subject && end.is_none_or(|end| subject < end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::wire::entry::Entry;

    const EVERYTHING: Input<'static> = Input::Range { start: &Digest([0; 32]), end: None };
    const NOW: u64 = REVOKED_RETENTION_MS + 1000;

    fn at(generation: u32, sequence: u64) -> Stamp {
        Stamp { generation, sequence }
    }

    fn key(subject: u8, version: u64, revoked_at_ms: Option<u64>) -> Vec<u8> {
        let body = Body::Key(KeyRecord { key_id: "k".into(), revoked_at_ms, ..KeyRecord::default() });
        frame(subject, version, body)
    }

    fn frame(subject: u8, version: u64, body: Body) -> Vec<u8> {
        let mut out = Vec::new();
        Entry { subject: Digest([subject; 32]), version, body }.encode(&mut out).unwrap();
        out
    }

    fn state(bucket: &[u8], subject: u8) -> Option<(u64, bool)> {
        let frame = find(bucket, &Digest([subject; 32])).unwrap()?;
        Some((frame.version, frame_end(&frame) == 0))
    }

    fn merged(bucket: &[u8], stamp: Stamp, incoming: &[u8], input: Input<'_>) -> Outcome {
        merge(bucket, stamp, Frames::new(incoming).map(Result::unwrap), input, NOW)
    }

    fn written(bucket: &[u8], stamp: Stamp, incoming: &[u8], input: Input<'_>) -> Vec<u8> {
        merged(bucket, stamp, incoming, input).rewritten.expect("a rewritten bucket")
    }

    #[test]
    fn change_is_written_once_and_not_undone_by_old_page() {
        let bucket = written(&[], at(1, 5), &key(1, 5, Some(9)), Input::Changes);
        assert_eq!(state(&bucket, 1), Some((5, true)));
        for stale in [at(1, 5), at(1, 4), at(0, 9)] {
            assert_eq!(merged(&bucket, stale, &key(1, 4, None), Input::Changes).rewritten, None);
        }
    }

    #[test]
    fn revoked_record_survives_a_restored_database() {
        let bucket = written(&[], at(1, 50), &key(1, 50, Some(NOW)), Input::Changes);
        let bucket = written(&bucket, at(2, 10), &key(1, 10, None), EVERYTHING);
        assert_eq!(state(&bucket, 1), Some((0, true)), "a backup in which the key is active");
        let bucket = written(&bucket, at(3, 10), &[], EVERYTHING);
        assert_eq!(state(&bucket, 1), Some((0, true)), "a backup older than the key");
        let bucket = written(&bucket, at(3, 11), &frame(1, 11, Body::Removed), Input::Changes);
        assert_eq!(state(&bucket, 1), None, "an explicit removal");
    }

    /// The expiry of a secret survives a restored database, and only moves to an earlier time.
    #[test]
    fn secret_expiry_survives_a_restored_database() {
        let ending = |version, secret_not_after_ms| {
            let record = KeyRecord { key_id: "k".into(), secret_not_after_ms, ..KeyRecord::default() };
            frame(1, version, Body::Key(record))
        };
        let end = |bucket: &[u8]| frame_end(&find(bucket, &Digest([1; 32])).unwrap().unwrap());
        let rotated = written(&[], at(1, 50), &ending(50, Some(NOW)), Input::Changes);
        for restored in [None, Some(NOW + 1)] {
            let bucket = written(&rotated, at(2, 10), &ending(10, restored), EVERYTHING);
            assert_eq!(end(&bucket), NOW, "{restored:?}");
        }
        assert_eq!(end(&written(&rotated, at(2, 10), &[], EVERYTHING)), NOW, "a backup older than the key");
        assert_eq!(end(&written(&rotated, at(1, 51), &ending(51, Some(NOW - 1)), Input::Changes)), NOW - 1);
        assert_eq!(end(&written(&rotated, at(1, 51), &key(1, 51, Some(NOW)), Input::Changes)), 0);
    }

    #[test]
    fn snapshot_drops_a_revoked_record_past_retention() {
        let bucket = written(&[], at(1, 50), &key(1, 50, Some(1)), Input::Changes);
        assert_eq!(state(&written(&bucket, at(2, 60), &[], EVERYTHING), 1), None);
    }

    #[test]
    fn snapshot_replaces_its_range_only() {
        let both = [key(1, 3, None), key(7, 4, None)].concat();
        let bucket = written(&[], at(1, 4), &both, Input::Changes);
        let range = Input::Range { start: &Digest([0; 32]), end: Some(&Digest([5; 32])) };
        let outcome = merged(&bucket, at(2, 2), &key(2, 1, None), range);
        assert_eq!((outcome.gained, outcome.in_range), (0, 1));
        let bucket = outcome.rewritten.unwrap();
        assert_eq!(
            (state(&bucket, 1), state(&bucket, 2), state(&bucket, 7)),
            (None, Some((1, false)), Some((0, false)))
        );
        let rest = Input::Range { start: &Digest([5; 32]), end: None };
        let bucket = written(&bucket, at(2, 2), &[], rest);
        assert_eq!((state(&bucket, 2), state(&bucket, 7)), (Some((1, false)), None));
    }

    #[test]
    fn repeated_snapshot_page_does_not_undo_later_changes() {
        let bucket = written(&[], at(1, 10), &key(1, 12, None), EVERYTHING);
        let bucket = written(&bucket, at(1, 10), &[], EVERYTHING);
        assert_eq!(state(&bucket, 1), Some((12, false)));
    }

    /// A bucket that a stale fetcher creates behind a snapshot is ignored, except for revocations.
    #[test]
    fn stale_fetchers_bucket_behind_a_snapshot_is_ignored() {
        let bucket = written(&[], at(1, 5), &key(1, 5, None), Input::Changes);
        let bucket = written(&bucket, at(2, 6), &key(2, 6, None), Input::Changes);
        assert_eq!((state(&bucket, 1), state(&bucket, 2)), (None, Some((6, false))));
        let bucket = written(&[], at(1, 5), &key(1, 5, Some(NOW)), Input::Changes);
        let bucket = written(&bucket, at(2, 6), &key(1, 6, None), Input::Changes);
        assert_eq!(state(&bucket, 1), Some((0, true)), "its revocation counts");
    }

    /// A bucket that a stale fetcher creates between two pages of a snapshot does not survive the snapshot.
    #[test]
    fn stale_fetchers_bucket_does_not_survive_a_snapshot() {
        let rest = Input::Range { start: &Digest([5; 32]), end: None };
        let both = [key(1, 5, None), key(2, 5, Some(NOW)), key(7, 5, None)].concat();
        let bucket = written(&written(&[], at(1, 5), &both, Input::Changes), at(2, 6), &key(8, 6, None), rest);
        let states = [1, 2, 7, 8].map(|subject| state(&bucket, subject));
        assert_eq!(states, [None, Some((0, true)), None, Some((6, false))]);
    }

    #[test]
    fn flipped_bit_marks_a_bucket_until_the_next_snapshot() {
        let bucket = written(&[], at(1, 5), &[key(1, 5, None), key(2, 4, Some(NOW))].concat(), Input::Changes);
        let whole = inspect(&bucket, 1).unwrap();
        assert_eq!((whole.kept, inspect(&bucket, 2)), (0, Some(Content::default())));
        for bit in 0..bucket.len() * 8 {
            let mut damaged = bucket.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(inspect(&damaged, 1), None, "bit {bit}");
            let changed = merged(&damaged, at(1, 6), &key(3, 6, None), Input::Changes);
            assert!(changed.was_damaged && inspect(&changed.rewritten.unwrap(), 1).is_none(), "bit {bit}");
            let renewed = merged(&damaged, at(2, 6), &key(3, 6, None), EVERYTHING);
            let renewed = renewed.rewritten.unwrap();
            assert_eq!((inspect(&renewed, 2).unwrap().kept, state(&renewed, 2)), (0, None), "bit {bit}");
            assert_eq!(state(&renewed, 3), Some((6, false)), "bit {bit}");
        }
    }

    /// A bucket reports the summary of its records, and how many were kept against what the control plane sends.
    #[test]
    fn bucket_reports_its_summary_and_kept_records() {
        let one = [key(1, 5, None), key(2, 4, Some(NOW))].concat();
        let sum =
            |frames: &[u8]| Frames::new(frames).map(|frame| frame.unwrap().summary()).reduce(Summary::plus).unwrap();
        let first = merged(&[], at(1, 5), &one, Input::Changes);
        assert_eq!(first.before, Content::default());
        assert_eq!(first.after, Content { summary: sum(&one), kept: 0 });
        let bucket = first.rewritten.unwrap();
        let second = merged(&bucket, at(1, 7), &[key(1, 6, None), frame(9, 7, Body::Removed)].concat(), Input::Changes);
        assert_eq!(second.before, first.after);
        assert_eq!(second.after, Content { summary: sum(&[key(1, 6, None), key(2, 4, Some(NOW))].concat()), kept: 0 });
        let restored = merged(&bucket, at(2, 3), &[key(1, 2, None), key(2, 3, None)].concat(), EVERYTHING);
        assert_eq!((restored.before, restored.after.kept), (Content::default(), 1), "the record stays revoked");
        let stale = merged(&bucket, at(1, 4), &one, Input::Changes);
        assert_eq!((stale.before, stale.after), (first.after, first.after));
    }

    #[test]
    fn unreadable_frame_is_kept_and_hides_no_revocation() {
        let mut strange = frame(1, 6, Body::Removed);
        *strange.last_mut().unwrap() = 99;
        let bucket = written(&[], at(1, 6), &strange, Input::Changes);
        assert!(find(&bucket, &Digest([1; 32])).unwrap().unwrap().decode().is_err());
        let bucket = written(&[], at(1, 5), &key(1, 5, Some(1)), Input::Changes);
        assert_eq!(state(&written(&bucket, at(1, 6), &strange, Input::Changes), 1), Some((KEPT, true)));
    }
}
