//! Timestamps, and the clock that returns the current one.
//!
//! Only [`system`] reads a clock; everything else takes the time as a parameter, so that tests choose it.

use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, Object, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

/// A point in time, in whole milliseconds since the Unix epoch, no later than the year 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// Returns the current time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The operating system's clock.
pub fn system() -> Clock {
    Arc::new(|| {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_ms(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    })
}

impl Timestamp {
    /// 9999-12-31T23:59:59.999Z, the last that RFC 3339 can write.
    const LATEST: u64 = 253_402_300_799_999;

    /// 2023-11-14T22:13:20Z, a time for tests.
    #[cfg(test)]
    pub(crate) const EXAMPLE: Self = Self(1_700_000_000_000);

    /// The time that many milliseconds after the Unix epoch; the year 9999 is the latest.
    pub fn from_ms(ms: u64) -> Self {
        Self(ms.min(Self::LATEST))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// The value for the database.
    pub fn as_stored(self) -> i64 {
        // LATEST is far below the bound.
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// From the value of the database; times before the epoch count as the epoch.
    pub fn from_stored(ms: i64) -> Self {
        Self::from_ms(u64::try_from(ms).unwrap_or(0))
    }

    /// The time that much later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self::from_ms(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time that much earlier, not before the epoch.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Parses a date-time (RFC 3339, section 5.6) with any offset. Times before the epoch count as the epoch, and those after
    /// the year 9999 as its end.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let text = text.to_ascii_uppercase();
        let (local, offset_ms) = match text.strip_suffix('Z') {
            Some(local) => (local, 0),
            None => {
                let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
                (local, offset_ms(offset)?)
            }
        };
        let (year, rest) = local.split_at_checked(4)?;
        let year: u16 = year.parse().ok().filter(|_| year.bytes().all(|c| c.is_ascii_digit()))?;
        // `humantime` reads no years before 1970. The calendar is the same every 400 years.
        let is_early = year < 1970;
        let year = if is_early { year + 2000 } else { year };
        let local = humantime::parse_rfc3339(&format!("{year:04}{rest}Z")).ok()?.duration_since(UNIX_EPOCH).ok()?;
        let ms = i64::try_from(local.as_millis()).ok()?.checked_sub(offset_ms)?;
        Some(if is_early { Self(0) } else { Self::from_ms(u64::try_from(ms).unwrap_or(0)) })
    }
}

/// Milliseconds that a `+HH:MM` is ahead of UTC.
fn offset_ms(offset: &str) -> Option<i64> {
    let (sign, rest) = match offset.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let number = |text: &str, below: i64| {
        let digits = text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit());
        text.parse().ok().filter(|number: &i64| digits && *number < below)
    };
    Some(sign * (number(hours, 24)? * 60 + number(minutes, 60)?) * 60_000)
}

/// RFC 3339 in UTC, with milliseconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(self.0)).fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
        Object::builder().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Timestamp {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_its_text() {
        let time = Timestamp::from_ms(1_700_000_000_123);
        assert_eq!(time.to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!(Timestamp::parse_rfc3339(&time.to_string()), Some(time));
        assert_eq!(Timestamp::from_stored(time.as_stored()), time);
    }

    #[test]
    fn every_offset_of_rfc_3339_is_read() {
        let utc = Timestamp::parse_rfc3339("2030-01-01T00:00:00Z");
        assert!(utc.is_some());
        for text in ["2030-01-01T02:00:00+02:00", "2029-12-31T18:30:00-05:30", "2030-01-01t00:00:00.000z"] {
            assert_eq!(Timestamp::parse_rfc3339(text), utc, "{text}");
        }
    }

    #[test]
    fn a_time_out_of_range_is_the_first_or_the_last() {
        for text in ["0000-02-29T00:00:00Z", "1969-12-31T23:59:59Z", "1970-01-01T00:00:00+00:01"] {
            assert_eq!(Timestamp::parse_rfc3339(text), Some(Timestamp(0)), "{text}");
        }
        let last = Some(Timestamp(Timestamp::LATEST));
        assert_eq!(Timestamp::parse_rfc3339("9999-12-31T23:59:59.999-00:01"), last);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "1900-02-29T00:00:00Z",
            "+970-01-01T00:00:00Z",
            "+2030-01-01T00:00:00Z",
            "1960-13-01T00:00:00Z",
            "",
            "Z",
            "tomorrow",
            "2030-01-01",
            "2030-01-01T00:00:00",
            "2030-01-01T00:00:00+2:00",
            "é030-01-01",
            "日本日本",
        ] {
            assert_eq!(Timestamp::parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn the_latest_time_can_be_written() {
        assert_eq!(Timestamp::from_ms(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::from_ms(5).minus(Duration::from_secs(1)), Timestamp::from_ms(0));
    }
}
