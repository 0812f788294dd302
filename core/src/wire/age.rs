//! How old what somebody says of the feed is, so that an edge's bound on staleness holds whoever answers it.
//!
//! A relay goes on answering while the control plane is away. It therefore says with each page how long ago the control
//! plane itself is known to have had nothing beyond it; a relay of a relay adds its own. So does one of several servers on a
//! database, of when it last looked there: it may be cut off from what the others change. A control plane of one server says
//! nothing, which is an age of 0.

/// The header field of a page that has its age in milliseconds.
pub const FEED_AGE_HEADER: &str = "x-keyward-feed-age-ms";

/// The age that the field tells. One that cannot be read is as old as can be: nobody may take it for fresh.
pub fn feed_age_ms(field: Option<&[u8]>) -> u64 {
    let Some(field) = field else { return 0 };
    std::str::from_utf8(field).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_an_age_is_fresh_and_one_with_an_age_that_cannot_be_read_never_is() {
        assert_eq!(feed_age_ms(None), 0);
        assert_eq!(feed_age_ms(Some(b"0")), 0);
        assert_eq!(feed_age_ms(Some(b"61000")), 61_000);
        for odd in [&b""[..], b"-1", b"1, 2", b"soon", b"\xff", b"99999999999999999999999"] {
            assert_eq!(feed_age_ms(Some(odd)), u64::MAX, "{odd:?}");
        }
    }
}
