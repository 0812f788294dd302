//! What the arguments of several commands have in common. No argument takes a token: every user of the machine sees
//! arguments.

use super::CliError;
use keyward_core::key::secret::Secret;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The data directory of a control plane, unless another one is named.
pub(super) const DATA_DIR: &str = ".keyward";

/// The URL of the PostgreSQL database that the environment names. An empty variable is an error: it was meant to name one,
/// and SQLite instead would look as if all keys were lost.
pub(super) fn database_url() -> Result<Option<Secret>, CliError> {
    read_database_url(std::env::var_os("KEYWARD_DATABASE_URL"))
}

fn read_database_url(url: Option<OsString>) -> Result<Option<Secret>, CliError> {
    let Some(url) = url else { return Ok(None) };
    match url.into_string() {
        Ok(url) if !url.trim().is_empty() => Ok(Some(Secret::new(url))),
        Ok(_) => Err(CliError::Usage(
            "KEYWARD_DATABASE_URL is set and empty: unset it to use SQLite in the data directory, or set it to the URL of a \
             PostgreSQL database",
        )),
        Err(_) => Err(CliError::Usage("expected KEYWARD_DATABASE_URL in UTF-8, got other bytes")),
    }
}

/// The URL of a server, without a slash at the end. One with a password is refused, as messages would repeat it.
pub(super) fn url(text: &str) -> Result<String, &'static str> {
    let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match authority {
        Some(rest) if !rest.is_empty() && !rest.contains(['@', '?', '#', ' ']) => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("expected the URL of a server as http://HOST:PORT or https://HOST:PORT, without a user or a query"),
    }
}

/// A host and a port. Whether the host exists shows when the server listens.
pub(super) fn listen_address(text: &str) -> Result<String, &'static str> {
    let is_valid = |(host, port): &(&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok();
    let parts = text.rsplit_once(':').filter(is_valid);
    parts.map(|_| text.to_owned()).ok_or("expected HOST:PORT, such as 127.0.0.1:8081 or [::1]:8081")
}

/// A duration in whole seconds.
pub(super) fn whole_seconds(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.subsec_nanos() == 0 { Ok(duration) } else { Err("expected whole seconds".to_owned()) }
}

/// A duration within bounds, which `expected` has in words.
pub(super) fn duration_within(
    text: &str,
    bounds: &RangeInclusive<Duration>,
    expected: &str,
) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if bounds.contains(&duration) { Ok(duration) } else { Err(format!("expected {expected}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_database_url_is_an_error() {
        let read = |url: &str| read_database_url(Some(url.into()));
        assert!(read_database_url(None).unwrap().is_none());
        assert_eq!(read("postgres://h/d").unwrap().unwrap().expose(), "postgres://h/d");
        for bad in ["", " ", "\n"] {
            assert!(read(bad).unwrap_err().to_string().contains("set and empty"), "{bad:?}");
        }
        let bytes = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
        assert!(read_database_url(Some(bytes)).is_err());
    }

    #[test]
    fn url_has_a_scheme_and_no_password() {
        assert_eq!(url("http://127.0.0.1:8081/"), Ok("http://127.0.0.1:8081".to_owned()));
        assert!(url("https://keyward.example").is_ok());
        for bad in ["127.0.0.1:8081", "ftp://x", "http://", "http://user:password@host"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
