//! How far a key's windows are used, as header fields of an answer.

use crate::key::limit::Limit;

/// One window of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The limit.
    pub limit: Limit,
    /// How many requests it would admit now.
    pub remaining: u32,
    /// After how many seconds it would admit more.
    pub reset_s: u64,
}

/// A header field, its name in lower case.
pub type Field = (&'static str, String);

/// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10): of each window its quota and its length
/// in seconds, and what remains and the seconds until there is more; none at all without windows.
pub fn standard(windows: &[Window]) -> Vec<Field> {
    if windows.is_empty() {
        return Vec::new();
    }
    vec![("ratelimit-policy", list(windows, policy)), ("ratelimit", list(windows, state))]
}

/// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, which no document defines: of the window with the
/// least left its quota, what remains, and the seconds until there is more; none at all without windows.
pub fn x(windows: &[Window]) -> Vec<Field> {
    let scarcest = windows.iter().min_by_key(|window| (window.remaining, u64::MAX - window.reset_s));
    let fields = scarcest.map(|window| {
        vec![
            ("x-ratelimit-limit", window.limit.requests().to_string()),
            ("x-ratelimit-remaining", window.remaining.to_string()),
            ("x-ratelimit-reset", window.reset_s.to_string()),
        ]
    });
    fields.unwrap_or_default()
}

fn policy(window: &Window) -> String {
    let limit = window.limit;
    format!("\"{limit}\";q={};w={}", limit.requests(), limit.window_ms().get() / 1000)
}

fn state(window: &Window) -> String {
    format!("\"{}\";r={};t={}", window.limit, window.remaining, window.reset_s)
}

/// A list of structured fields (RFC 9651, section 3.1).
fn list(windows: &[Window], member: impl Fn(&Window) -> String) -> String {
    windows.iter().map(member).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(limit: &str, remaining: u32, reset_s: u64) -> Window {
        Window { limit: limit.parse().unwrap(), remaining, reset_s }
    }

    #[test]
    fn windows_are_told_as_lists_of_structured_fields() {
        let [policy, state] = standard(&[window("10/s", 0, 1), window("200/min", 190, 60)]).try_into().unwrap();
        assert_eq!(policy, ("ratelimit-policy", r#""10/s";q=10;w=1, "200/min";q=200;w=60"#.to_owned()));
        assert_eq!(state, ("ratelimit", r#""10/s";r=0;t=1, "200/min";r=190;t=60"#.to_owned()));
    }

    #[test]
    fn the_older_fields_tell_the_window_with_the_least_left_and_of_two_the_one_that_takes_longer() {
        let told = |windows: &[Window]| x(windows).into_iter().map(|(_, value)| value).collect::<Vec<_>>();
        assert_eq!(told(&[window("10/s", 4, 1), window("200/min", 3, 60)]), ["200", "3", "60"]);
        assert_eq!(told(&[window("10/s", 0, 1), window("200/min", 0, 60)]), ["200", "0", "60"]);
        let names: Vec<_> = x(&[window("1/s", 1, 0)]).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"]);
    }

    #[test]
    fn without_windows_nothing_is_told() {
        assert_eq!((standard(&[]), x(&[])), (vec![], vec![]));
    }
}
