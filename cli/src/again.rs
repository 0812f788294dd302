//! Asks again for what may have been done and whose answer was lost, under the Idempotency-Key that it was asked for with:
//! only there can the secret that was made still be had. Where nothing can have been done, nothing is asked again.

use super::client::ClientError;
use std::io::ErrorKind;
use std::thread::sleep;
use std::time::{Duration, Instant};
use ureq::Timeout;

/// It did not come to an answer.
#[derive(Debug)]
pub(super) struct GivenUp {
    /// What came in the end.
    pub(super) error: ClientError,
    /// Whether it may have been done all the same.
    pub(super) may_be_done: bool,
}

/// What passes the time between two attempts.
pub(super) trait Time {
    fn now(&self) -> Instant;
    fn pass(&mut self, pause: Duration);
}

/// The system's.
pub(super) struct SystemTime;

/// How long it is asked again from the first time that an answer was lost.
const PERSISTENCE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Asks until there is an answer. From the first time on that it may have been done, whatever passes by itself, such as a
/// server that restarts, is waited for.
pub(super) fn ask<T>(time: &mut impl Time, mut ask: impl FnMut() -> Result<T, ClientError>) -> Result<T, GivenUp> {
    let error = match ask() {
        Ok(answer) => return Ok(answer),
        Err(error) if !leaves_open(&error) => return Err(GivenUp { error, may_be_done: false }),
        Err(error) => error,
    };
    let until = time.now() + PERSISTENCE;
    let (mut last, mut pause) = (error, FIRST_PAUSE);
    while (leaves_open(&last) || is_temporary(&last)) && time.now() + pause <= until {
        time.pass(pause);
        pause = LONGEST_PAUSE.min(2 * pause);
        last = match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
    }
    Err(GivenUp { error: last, may_be_done: true })
}

impl Time for SystemTime {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn pass(&mut self, pause: Duration) {
        sleep(pause);
    }
}

/// Whether the request may have arrived and been carried out.
fn leaves_open(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { source, .. } => match &**source {
            ureq::Error::Io(error) => !NOT_CONNECTED.contains(&error.kind()),
            ureq::Error::Timeout(timeout) => !matches!(timeout, Timeout::Resolve | Timeout::Connect),
            ureq::Error::Protocol(_) | ureq::Error::ConnectionFailed => true,
            _ => false,
        },
        ClientError::Refused { refusal, .. } => refusal.leaves_open(),
        // What stands between has lost the server after it had the request (RFC 9110, sections 15.6.3 and 15.6.5), which
        // Envoy answers 503.
        ClientError::NotTheApi { status, .. } => matches!(status, 502..=504),
        ClientError::Url(_) | ClientError::NoToken { .. } => false,
    }
}

/// What a connection fails with that is not made: the last one where the certificate is not to be trusted.
const NOT_CONNECTED: [ErrorKind; 6] = [
    ErrorKind::ConnectionRefused,
    ErrorKind::HostUnreachable,
    ErrorKind::NetworkUnreachable,
    ErrorKind::NetworkDown,
    ErrorKind::AddrNotAvailable,
    ErrorKind::InvalidData,
];

/// Whether it may pass by itself.
fn is_temporary(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { source, .. } => {
            matches!(**source, ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::HostNotFound)
        }
        ClientError::Refused { status, .. } | ClientError::NotTheApi { status, .. } => *status == 503,
        ClientError::Url(_) | ClientError::NoToken { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// A time that passes only where it is waited for.
    struct TestTime {
        now: Instant,
        pauses: Vec<Duration>,
    }

    impl Time for TestTime {
        fn now(&self) -> Instant {
            self.now
        }

        fn pass(&mut self, pause: Duration) {
            self.now += pause;
            self.pauses.push(pause);
        }
    }

    fn time() -> TestTime {
        TestTime { now: Instant::now(), pauses: Vec::new() }
    }

    fn unreachable(source: ureq::Error) -> ClientError {
        ClientError::Unreachable { url: "http://h".into(), source: Box::new(source) }
    }

    fn broken() -> ClientError {
        unreachable(io::Error::from(ErrorKind::ConnectionReset).into())
    }

    fn not_connected() -> ClientError {
        unreachable(io::Error::from(ErrorKind::ConnectionRefused).into())
    }

    fn refused(status: u16, problem: &str) -> ClientError {
        ClientError::refused_for_test(status, problem)
    }

    #[test]
    fn what_cannot_have_arrived_or_was_refused_is_told_at_once() {
        let untrusted = io::Error::new(ErrorKind::InvalidData, "certificate");
        for error in [
            not_connected(),
            unreachable(untrusted.into()),
            unreachable(ureq::Error::HostNotFound),
            unreachable(ureq::Error::Timeout(Timeout::Resolve)),
            unreachable(ureq::Error::Timeout(Timeout::Connect)),
            refused(401, "unauthorized"),
            refused(503, "unavailable"),
            refused(500, "internal"),
            ClientError::NotTheApi { url: "http://h".into(), status: 404 },
        ] {
            let (mut time, mut errors) = (time(), vec![error]);
            let given_up = ask(&mut time, || Err::<(), _>(errors.pop().unwrap())).unwrap_err();
            assert!(!given_up.may_be_done && time.pauses.is_empty(), "{given_up:?}");
        }
    }

    #[test]
    fn what_may_be_done_is_asked_for_again_through_whatever_passes_by_itself() {
        for first in [
            broken(),
            unreachable(ureq::Error::Timeout(Timeout::Global)),
            unreachable(ureq::Error::Timeout(Timeout::RecvResponse)),
            refused(503, "outcome_unknown"),
            ClientError::NotTheApi { url: "http://h".into(), status: 503 },
            ClientError::NotTheApi { url: "http://h".into(), status: 504 },
        ] {
            let mut time = time();
            let mut errors = vec![refused(503, "unavailable"), broken(), not_connected(), first];
            let answer = ask(&mut time, || errors.pop().map_or(Ok("made"), Err)).unwrap();
            assert_eq!((answer, time.pauses), ("made", [100, 200, 400, 800].map(Duration::from_millis).to_vec()));
        }
    }

    #[test]
    fn it_is_given_up_after_twenty_seconds_with_what_came_last() {
        let (mut time, mut n) = (time(), 0);
        let begun = time.now;
        let given_up = ask(&mut time, || {
            n += 1;
            Err::<(), _>(if n == 1 { broken() } else { not_connected() })
        });
        let given_up = given_up.unwrap_err();
        assert!(given_up.may_be_done && matches!(given_up.error, ClientError::Unreachable { .. }));
        let taken = time.now - begun;
        assert!(taken <= PERSISTENCE && taken > PERSISTENCE - LONGEST_PAUSE, "{taken:?}");
        assert_eq!(time.pauses.iter().max(), Some(&LONGEST_PAUSE));
    }

    #[test]
    fn a_refusal_after_a_lost_answer_ends_it_and_leaves_it_open() {
        let (mut time, mut errors) = (time(), vec![refused(401, "unauthorized"), broken()]);
        let given_up = ask(&mut time, || Err::<(), _>(errors.pop().unwrap())).unwrap_err();
        assert!(given_up.may_be_done && matches!(given_up.error, ClientError::Refused { status: 401, .. }));
    }
}
