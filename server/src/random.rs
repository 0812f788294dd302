//! Randomness for keys, tokens, ids and epochs, from the operating system.

/// The operating system returned no randomness.
#[derive(Debug, thiserror::Error)]
#[error("no randomness from the operating system")]
pub struct RngError(#[source] getrandom::Error);

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The number of random characters in an id: 119 bits.
pub const ID_LENGTH: usize = 20;

/// Fills the buffer with random bytes.
pub fn fill(bytes: &mut [u8]) -> Result<(), RngError> {
    getrandom::fill(bytes).map_err(RngError)
}

/// That many random characters of `0-9A-Za-z`, uniformly distributed.
pub fn base62(length: usize) -> Result<String, RngError> {
    let mut text = String::with_capacity(length);
    let mut pool = [0; 64];
    while text.len() < length {
        fill(&mut pool)?;
        // 248 = 4 × 62: the bytes above would favour the first characters.
        let symbols = pool.iter().filter(|byte| **byte < 248).filter_map(|byte| BASE62.get(usize::from(*byte) % 62));
        text.extend(symbols.take(length - text.len()).map(|symbol| char::from(*symbol)));
    }
    Ok(text)
}

/// A new id with that prefix.
pub fn id(prefix: &str) -> Result<String, RngError> {
    Ok(format!("{prefix}{}", base62(ID_LENGTH)?))
}

/// A random number.
pub fn number() -> Result<u64, RngError> {
    getrandom::u64().map_err(RngError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn base62_has_the_length_and_the_characters_asked_for() {
        for length in [0, 1, 43, 200] {
            let text = base62(length).unwrap();
            assert_eq!(text.len(), length);
            assert!(text.bytes().all(|c| c.is_ascii_alphanumeric()));
        }
    }

    #[test]
    fn ids_do_not_repeat() {
        let ids: HashSet<_> = (0..1000).map(|_| id("key_").unwrap()).collect();
        assert_eq!(ids.len(), 1000);
    }
}
