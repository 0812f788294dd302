//! The format of key ids, which distinguishes them from keys pasted in their place.

/// The prefix of all key ids.
pub const KEY_ID_PREFIX: &str = "key_";

/// The maximum length of a key id, in bytes.
pub const MAX_KEY_ID_LENGTH: usize = 64;

/// Whether the text is a valid key id: `key_`, then letters, digits, `_` and `-`.
pub fn is_key_id(text: &str) -> bool {
    let is_allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    let rest = text.strip_prefix(KEY_ID_PREFIX).filter(|rest| !rest.is_empty());
    text.len() <= MAX_KEY_ID_LENGTH && rest.is_some_and(|rest| rest.bytes().all(is_allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_characters_and_length_are_checked() {
        let longest = format!("key_{}", "a".repeat(MAX_KEY_ID_LENGTH - 4));
        for good in ["key_1", "key_-_aZ09", &longest] {
            assert!(is_key_id(good), "{good}");
        }
        let too_long = format!("{longest}a");
        for bad in ["", "key_", "key", "1", "kw_live_abc", "key_a b", "key_a/b", "key_é", "key_a\n", "KEY_1", &too_long]
        {
            assert!(!is_key_id(bad), "{bad:?}");
        }
    }
}
