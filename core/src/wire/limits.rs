//! Encoding of limits in an entry: each as 4 bytes of requests and 8 of milliseconds, little-endian.

use crate::key::limit::{Limit, Limits, LimitsError, WindowError};
use crate::wire::codec::Reader;

/// The length of an encoded limit, in bytes.
const LENGTH: usize = 4 + 8;

/// Why encoded limits cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnreadableLimits {
    /// The bytes end within a limit.
    Cut,
    /// A window is invalid.
    Window(WindowError),
    /// The limits do not form a set.
    Set(LimitsError),
}

/// Appends the limits.
pub(crate) fn encode(limits: &Limits, out: &mut Vec<u8>) {
    for limit in limits.iter() {
        out.extend_from_slice(&limit.requests().to_le_bytes());
        out.extend_from_slice(&limit.window_ms().get().to_le_bytes());
    }
}

/// Reads what [`encode`] wrote, to the end of the bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Limits, UnreadableLimits> {
    let mut reader = Reader::new(bytes);
    let mut limits = Vec::with_capacity(bytes.len().min(Limits::MAX * LENGTH) / LENGTH);
    while !reader.is_empty() {
        let [a, b, c, d, window_ms @ ..] = reader.array::<LENGTH>().ok_or(UnreadableLimits::Cut)?;
        let limit = Limit::new(u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(window_ms));
        limits.push(limit.map_err(UnreadableLimits::Window)?);
    }
    Limits::new(limits).map_err(UnreadableLimits::Set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_encoding_is_pinned() {
        let mut out = Vec::new();
        encode(&Limits::new(vec!["10/s".parse().unwrap()]).unwrap(), &mut out);
        assert_eq!(out, [10, 0, 0, 0, 0xe8, 3, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn an_invalid_window_is_rejected() {
        for (window_ms, error) in [
            (0, WindowError::TooShort),
            (999, WindowError::TooShort),
            (1500, WindowError::NotWholeSeconds),
            (Limit::MAX_WINDOW_MS + 1000, WindowError::TooLong),
        ] {
            let mut bytes = 1u32.to_le_bytes().to_vec();
            bytes.extend_from_slice(&u64::to_le_bytes(window_ms));
            assert_eq!(decode(&bytes), Err(UnreadableLimits::Window(error)));
        }
        assert_eq!(decode(&[0; 11]), Err(UnreadableLimits::Cut));
    }

    proptest! {
        #[test]
        fn limits_survive_the_wire(windows in prop::collection::btree_map(1u64..=2_678_400, any::<u32>(), 0..16)) {
            let limits = windows.iter().map(|(seconds, requests)| Limit::new(*requests, seconds * 1000).unwrap());
            let limits = Limits::new(limits.collect()).unwrap();
            let mut out = Vec::new();
            encode(&limits, &mut out);
            prop_assert_eq!(out.len(), limits.len() * LENGTH);
            prop_assert_eq!(decode(&out), Ok(limits));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&bytes);
        }
    }
}
