//! What a key may use: so many requests in any span of so much time, written `10/s`, `200/min` or `30/10s`.
//!
//! A window is a whole number of seconds, as in `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers), from one
//! second to 31 days. Counting is the limiter's work, not done here.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::Deref;
use std::str::FromStr;

/// At most so many requests in any span as long as the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    requests: u32,
    window_ms: NonZeroU64,
}

/// The limits of one key, one for each window, shortest window first. None at all means that nothing is limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits(Vec<Limit>);

/// Why a length of time cannot be a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// It is shorter than [`Limit::MIN_WINDOW_MS`].
    #[error("a window is at least one second long")]
    TooShort,
    /// It is longer than [`Limit::MAX_WINDOW_MS`].
    #[error("a window is at most 31 days long")]
    TooLong,
    /// It is not a whole number of seconds.
    #[error("a window is a whole number of seconds")]
    NotWholeSeconds,
}

/// Why a text is not a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseLimitError {
    /// It has no slash.
    #[error("a limit is written as requests/window, such as 10/s, 200/min or 30/10s")]
    Form,
    /// What is before the slash is not a number.
    #[error("the requests of a limit are a number from 0 to {}", u32::MAX)]
    Requests,
    /// What is after the slash does not end in a unit.
    #[error("the window of a limit is s, min, h or d, or a number and one of these, such as 10s")]
    Unit,
    /// The window is too short or too long.
    #[error(transparent)]
    Window(#[from] WindowError),
}

/// Why limits are not a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// Two limits have the same window.
    #[error("{0} and {1} limit the same window: keep one of them")]
    SameWindow(Limit, Limit),
    /// There are more than [`Limits::MAX`].
    #[error("{0} limits are more than the {max} that a key can have", max = Limits::MAX)]
    TooMany(usize),
}

const SECOND_MS: u64 = 1000;

/// Longest first, so that a window is written with the largest unit that divides it.
const UNITS: [(&str, u64); 4] =
    [("d", 86_400 * SECOND_MS), ("h", 3600 * SECOND_MS), ("min", 60 * SECOND_MS), ("s", SECOND_MS)];

impl Limit {
    /// The shortest window, in milliseconds.
    pub const MIN_WINDOW_MS: u64 = SECOND_MS;

    /// The longest window, in milliseconds: 31 days.
    pub const MAX_WINDOW_MS: u64 = 31 * 86_400 * SECOND_MS;

    /// At most `requests` in any span of `window_ms` milliseconds; 0 requests let none pass.
    ///
    /// # Errors
    /// If the window is out of range or not a whole number of seconds.
    pub fn new(requests: u32, window_ms: u64) -> Result<Self, WindowError> {
        match NonZeroU64::new(window_ms) {
            Some(_) if window_ms > Self::MAX_WINDOW_MS => Err(WindowError::TooLong),
            Some(_) if window_ms < Self::MIN_WINDOW_MS => Err(WindowError::TooShort),
            Some(_) if !window_ms.is_multiple_of(SECOND_MS) => Err(WindowError::NotWholeSeconds),
            Some(window_ms) => Ok(Self { requests, window_ms }),
            None => Err(WindowError::TooShort),
        }
    }

    /// At most `requests` a minute.
    pub const fn per_minute(requests: u32) -> Self {
        Self { requests, window_ms: NonZeroU64::MIN.saturating_add(60 * SECOND_MS - 1) }
    }

    /// At most `requests` in ten seconds.
    pub const fn per_ten_seconds(requests: u32) -> Self {
        Self { requests, window_ms: NonZeroU64::MIN.saturating_add(10 * SECOND_MS - 1) }
    }

    /// How many requests pass in any span as long as the window.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// The length of the window, in milliseconds.
    pub fn window_ms(&self) -> NonZeroU64 {
        self.window_ms
    }

    /// A wait for this limit in whole seconds, as clients are told it: rounded up, and never more than the window, which a
    /// wait in milliseconds exceeds by one at the moment that a request is counted.
    pub fn wait_s(&self, wait_ms: u64) -> u64 {
        wait_ms.div_ceil(SECOND_MS).min(self.window_ms.get() / SECOND_MS)
    }
}

impl FromStr for Limit {
    type Err = ParseLimitError;

    fn from_str(text: &str) -> Result<Self, ParseLimitError> {
        let (requests, window) = text.split_once('/').ok_or(ParseLimitError::Form)?;
        let requests = digits(requests).ok_or(ParseLimitError::Requests)?;
        let requests = requests.parse().map_err(|_| ParseLimitError::Requests)?;
        let (count, unit) = window.split_at(window.bytes().take_while(u8::is_ascii_digit).count());
        let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(ParseLimitError::Unit)?;
        // All digits, so what cannot be parsed is too large.
        let count: u64 = digits(count).map_or(Ok(1), str::parse).map_err(|_| WindowError::TooLong)?;
        let window_ms = count.checked_mul(*unit_ms).ok_or(WindowError::TooLong)?;
        Ok(Self::new(requests, window_ms)?)
    }
}

/// The text, if it is one digit or more and nothing else (`parse` would allow a sign).
fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window_ms = self.window_ms.get();
        let (unit, unit_ms) =
            UNITS.into_iter().find(|(_, unit_ms)| window_ms.is_multiple_of(*unit_ms)).unwrap_or(("ms", 1));
        match window_ms / unit_ms {
            1 => write!(f, "{}/{unit}", self.requests),
            count => write!(f, "{}/{count}{unit}", self.requests),
        }
    }
}

impl Limits {
    /// The most limits that a key can have: every request is counted in each.
    pub const MAX: usize = 16;

    /// The limits as a set.
    ///
    /// # Errors
    /// If two have the same window, or there are too many.
    pub fn new(mut limits: Vec<Limit>) -> Result<Self, LimitsError> {
        if limits.len() > Self::MAX {
            return Err(LimitsError::TooMany(limits.len()));
        }
        limits.sort_by_key(Limit::window_ms);
        let mut pairs = limits.iter().zip(limits.iter().skip(1));
        match pairs.find(|(one, next)| one.window_ms == next.window_ms) {
            Some((one, next)) => Err(LimitsError::SameWindow(*one, *next)),
            None => Ok(Self(limits)),
        }
    }
}

impl Deref for Limits {
    type Target = [Limit];

    fn deref(&self) -> &[Limit] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limit(text: &str) -> Limit {
        text.parse().unwrap()
    }

    #[test]
    fn a_wait_in_seconds_is_rounded_up_and_never_longer_than_the_window() {
        for (limit, wait_ms, expected) in [
            ("2/min", 0, 0),
            ("2/min", 1, 1),
            ("2/min", 1000, 1),
            ("2/min", 1001, 2),
            ("2/min", 59_001, 60),
            ("2/min", 60_000, 60),
            ("2/min", 60_001, 60),
            ("1/s", 1001, 1),
            ("1/31d", Limit::MAX_WINDOW_MS + 1, 31 * 86_400),
            ("1/s", u64::MAX, 1),
        ] {
            let limit: Limit = limit.parse().unwrap();
            assert_eq!(limit.wait_s(wait_ms), expected, "{limit} {wait_ms}");
        }
    }

    #[test]
    fn a_limit_is_of_the_window_that_its_name_says() {
        assert_eq!(Limit::per_minute(5), "5/min".parse().unwrap());
        assert_eq!(Limit::per_ten_seconds(5), "5/10s".parse().unwrap());
    }

    #[test]
    fn a_limit_is_read_as_written() {
        for (text, requests, window_ms) in [
            ("10/s", 10, 1000),
            ("200/min", 200, 60_000),
            ("1000/h", 1000, 3_600_000),
            ("5/d", 5, 86_400_000),
            ("30/10s", 30, 10_000),
            ("0/s", 0, 1000),
            ("4294967295/31d", u32::MAX, Limit::MAX_WINDOW_MS),
        ] {
            let limit = limit(text);
            assert_eq!((limit.requests(), limit.window_ms().get()), (requests, window_ms), "{text}");
            assert_eq!(limit.to_string(), text);
        }
    }

    #[test]
    fn a_limit_is_shown_with_the_largest_unit_that_fits() {
        for (written, shown) in [("1/60s", "1/min"), ("1/90s", "1/90s"), ("1/24h", "1/d"), ("007/01s", "7/s")] {
            assert_eq!(limit(written).to_string(), shown);
        }
    }

    #[test]
    fn what_is_not_a_limit_is_refused_with_its_reason() {
        use ParseLimitError::*;
        for (text, error) in [
            ("", Form),
            ("10", Form),
            ("10 per s", Form),
            ("/s", Requests),
            ("+1/s", Requests),
            ("-1/s", Requests),
            (" 1/s", Requests),
            ("1.5/s", Requests),
            ("4294967296/s", Requests),
            ("10/", Unit),
            ("10/ s", Unit),
            ("10/10", Unit),
            ("10/S", Unit),
            ("10/ms", Unit),
            ("10/+1s", Unit),
            ("10/s/s", Unit),
            ("10/1é", Unit),
            ("10/0s", Window(WindowError::TooShort)),
            ("10/32d", Window(WindowError::TooLong)),
            ("10/18446744073709551615d", Window(WindowError::TooLong)),
            ("10/18446744073709551616s", Window(WindowError::TooLong)),
        ] {
            assert_eq!(text.parse::<Limit>(), Err(error), "{text}");
        }
    }

    #[test]
    fn two_limits_for_one_window_are_refused_by_name() {
        let error = Limits::new(vec![limit("10/60s"), limit("5/s"), limit("20/min")]).unwrap_err();
        assert_eq!(error.to_string(), "10/min and 20/min limit the same window: keep one of them");
        let many: Vec<Limit> = (1..=17).map(|n| Limit::new(1, n * 1000).unwrap()).collect();
        assert_eq!(Limits::new(many), Err(LimitsError::TooMany(17)));
    }

    proptest! {
        #[test]
        fn limits_survive_text(windows in prop::collection::btree_map(1u64..=2_678_400, any::<u32>(), 0..16)) {
            let limits: Vec<Limit> =
                windows.iter().map(|(seconds, requests)| Limit::new(*requests, seconds * 1000).unwrap()).collect();
            for limit in &limits {
                prop_assert_eq!(limit.to_string().parse(), Ok(*limit));
            }
            prop_assert_eq!(Limits::new(limits.clone()).unwrap().to_vec(), limits);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = text.parse::<Limit>();
        }
    }
}
