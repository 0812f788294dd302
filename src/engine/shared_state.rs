//! The two small records beside the buckets: the cursor of the feed, and the status that every worker polls.

use keyward_core::key::digest::Digest;
use keyward_core::wire::cursor::Position;

/// The feed's position in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorCell {
    /// How many snapshots this process has started.
    pub generation: u32,
    /// How many records the current snapshot has delivered so far.
    pub counted: u64,
    /// The position applied completely.
    pub position: Position,
}

impl CursorCell {
    /// The record of a process without a snapshot.
    pub const START: Self = Self { generation: 0, counted: 0, position: Position::Nothing };

    /// Encodes the record.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.counted.to_le_bytes());
        self.position.encode(&mut out);
        out
    }

    /// Decodes a record; a missing or unreadable one is [`START`](Self::START).
    pub fn decode(bytes: &[u8]) -> Self {
        let read = || {
            let (generation, rest) = bytes.split_first_chunk::<4>()?;
            let (counted, rest) = rest.split_first_chunk::<8>()?;
            Some(Self {
                generation: u32::from_le_bytes(*generation),
                counted: u64::from_le_bytes(*counted),
                position: Position::decode(rest)?,
            })
        };
        read().unwrap_or(Self::START)
    }
}

/// What every worker polls: whether there is a snapshot, how old it is, and what changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The last generation whose snapshot is complete; 0 means that there is none yet.
    pub generation: u32,
    /// The sequence of the feed that was applied completely.
    pub sequence: u64,
    /// When the control plane was last known to have nothing newer, in milliseconds of the process's monotonic clock.
    /// Negative if a relay lost the control plane before that clock started.
    pub contact_ms: i64,
    /// When a response of the feed, however old, last led to its head, by the same clock.
    pub answered_ms: u64,
    /// How many records the snapshot holds.
    pub records: u64,
    /// Counts the changes of each stripe of buckets, so that one change does not invalidate every cache.
    pub stripes: [u32; Self::STRIPES],
}

impl Status {
    /// The number of stripes.
    pub const STRIPES: usize = 64;

    /// The status of a process without a snapshot.
    pub const START: Self = Self {
        generation: 0,
        sequence: 0,
        contact_ms: i64::MIN,
        answered_ms: 0,
        records: 0,
        stripes: [0; Self::STRIPES],
    };

    /// How long ago the control plane was last known to have nothing newer.
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub_signed(self.contact_ms)
    }

    /// The stripe of a bucket.
    pub fn stripe_of(bucket: u32) -> usize {
        bucket as usize % Self::STRIPES
    }

    /// The stripe of a subject where there are 2^`bucket_bits` buckets.
    pub fn stripe_of_subject(subject: &Digest, bucket_bits: u32) -> usize {
        Self::stripe_of(subject.leading_bits(bucket_bits))
    }

    /// Counts one more change of each stripe whose bit is set in `touched`.
    pub fn bump(&mut self, touched: u64) {
        for (n, stripe) in self.stripes.iter_mut().enumerate() {
            *stripe = stripe.wrapping_add(u32::from(touched >> n & 1 == 1));
        }
    }

    /// Encodes the status.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(36 + 4 * Self::STRIPES);
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.contact_ms.to_le_bytes());
        out.extend_from_slice(&self.answered_ms.to_le_bytes());
        out.extend_from_slice(&self.records.to_le_bytes());
        for stripe in self.stripes {
            out.extend_from_slice(&stripe.to_le_bytes());
        }
        out
    }

    /// Decodes a status; a missing or unreadable one is [`START`](Self::START), under which nothing is served.
    pub fn decode(bytes: &[u8]) -> Self {
        let read = || {
            let (generation, rest) = bytes.split_first_chunk::<4>()?;
            let (sequence, rest) = rest.split_first_chunk::<8>()?;
            let (contact_ms, rest) = rest.split_first_chunk::<8>()?;
            let (answered_ms, rest) = rest.split_first_chunk::<8>()?;
            let (records, rest) = rest.split_first_chunk::<8>()?;
            let (stripes, rest) = rest.as_chunks::<4>();
            if !rest.is_empty() {
                return None;
            }
            let stripes: Vec<u32> = stripes.iter().map(|stripe| u32::from_le_bytes(*stripe)).collect();
            Some(Self {
                generation: u32::from_le_bytes(*generation),
                sequence: u64::from_le_bytes(*sequence),
                contact_ms: i64::from_le_bytes(*contact_ms),
                answered_ms: u64::from_le_bytes(*answered_ms),
                records: u64::from_le_bytes(*records),
                stripes: stripes.try_into().ok()?,
            })
        };
        read().unwrap_or(Self::START)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::wire::cursor::Cursor;

    #[test]
    fn records_round_trip_through_shared_data() {
        let seen = Cursor { epoch: 1, sequence: 2, chain: [3; 16] };
        for position in [Position::Nothing, Position::Snapshot { base: 1, next: Digest([4; 32]), seen }] {
            let cell = CursorCell { generation: 5, counted: 6, position };
            assert_eq!(CursorCell::decode(&cell.encode()), cell);
        }
        let mut status =
            Status { generation: 1, sequence: 2, contact_ms: -3, answered_ms: 6, records: 4, ..Status::START };
        status.stripes[63] = 5;
        assert_eq!(Status::decode(&status.encode()), status);
    }

    #[test]
    fn unreadable_status_serves_nothing() {
        assert_eq!(CursorCell::decode(b"?"), CursorCell::START);
        assert_eq!(Status::decode(&[1; 29]), Status::START);
        assert_eq!(Status::START.generation, 0);
    }
}
