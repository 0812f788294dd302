//! Header fields as proxy-wasm passes them, parsed in place: a request has one or two dozen, and copying each name and
//! value would cost more than the whole decision.

use crate::engine::credential::Header;

/// Parses a serialized map (proxy-wasm ABI 0.2.1, `proxy_get_header_map_pairs`): the number of fields, the lengths of
/// each name and value, and then names and values, each followed by a zero byte. `None` if malformed.
pub fn read(bytes: &[u8]) -> Option<Vec<Header<'_>>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let (count, rest) = length(bytes)?;
    let (lengths, mut texts) = rest.split_at_checked(count.checked_mul(8)?)?;
    let mut text = |length: &[u8; 4]| {
        let (text, rest) = texts.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        texts = rest.strip_prefix(b"\0")?;
        Some(text)
    };
    let mut fields = Vec::with_capacity(count);
    for [name, value] in lengths.as_chunks::<4>().0.as_chunks::<2>().0 {
        fields.push((std::str::from_utf8(text(name)?).ok()?, text(value)?));
    }
    Some(fields)
}

fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*length)).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(fields: &[(String, Vec<u8>)]) -> Vec<u8> {
        let length = |length: usize| u32::try_from(length).unwrap().to_le_bytes();
        let lengths = fields.iter().flat_map(|(name, value)| [length(name.len()), length(value.len())].concat());
        let texts = fields.iter().flat_map(|(name, value)| [name.as_bytes(), b"\0", value, b"\0"].concat());
        length(fields.len()).into_iter().chain(lengths).chain(texts).collect()
    }

    proptest! {
        #[test]
        fn envoys_map_is_parsed_and_a_truncated_one_is_not(
            fields in proptest::collection::vec(("[a-z:-]{0,12}", proptest::collection::vec(any::<u8>(), 0..12)), 0..6),
            cut in any::<proptest::sample::Index>(),
        ) {
            let bytes = written(&fields);
            let expected: Vec<Header<'_>> = fields.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
            prop_assert_eq!(read(&bytes), Some(expected));
            let cut = cut.index(bytes.len());
            prop_assert!(cut == 0 || read(&bytes[..cut]).is_none(), "{} of {}", cut, bytes.len());
        }

        #[test]
        fn arbitrary_bytes_are_handled(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&bytes);
        }
    }

    #[test]
    fn impossible_field_count_reserves_no_memory() {
        assert_eq!(read(&[0xff; 64]), None);
    }

    #[test]
    fn name_that_is_not_utf8_is_rejected() {
        let mut bytes = written(&[("name".to_owned(), b"value".to_vec())]);
        bytes[12] = 0xff;
        assert_eq!(read(&bytes), None);
    }
}
