//! Retries for requests with an Idempotency-Key.
//!
//! A request is repeated only if it may have been carried out although its response was lost: the response to the same
//! Idempotency-Key is the only place where the new secret can still be read. If a request cannot have been carried out,
//! its error is returned at once.

use crate::ClientError;
use backon::{BackoffBuilder, BlockingRetryable, ExponentialBuilder};
use std::io::ErrorKind;
use std::time::{Duration, Instant};
use ureq::Timeout;

/// A request failed, also after retries.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct RetryError {
    /// The last error.
    pub error: ClientError,
    /// Whether the request may have been carried out nevertheless.
    pub outcome_unknown: bool,
}

/// The time, and waiting for it to pass.
pub(crate) trait Clock: Clone + Send + Sync + Unpin + 'static {
    fn now(&self) -> Instant;
    fn sleep(&self, pause: Duration);
}

#[derive(Clone, Copy)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, pause: Duration) {
        std::thread::sleep(pause);
    }
}

/// How long requests are repeated after the first lost response.
const DEADLINE: Duration = Duration::from_secs(20);
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Sends the request until there is a response. Once it may have been carried out, temporary errors are waited for, too,
/// such as while the server restarts.
pub(crate) fn retry<T>(clock: impl Clock, request: impl FnMut() -> Result<T, ClientError>) -> Result<T, RetryError> {
    let backoff = ExponentialBuilder::new().with_min_delay(MIN_PAUSE).with_max_delay(MAX_PAUSE).without_max_times();
    let (waiting, mut deadline) = (clock.clone(), None);
    let pauses = backoff.build().take_while(move |pause| {
        let now = waiting.now();
        now + *pause <= *deadline.get_or_insert(now + DEADLINE)
    });
    let mut outcome_unknown = false;
    let result = request
        .retry(pauses)
        .sleep(move |pause| clock.sleep(pause))
        .when(|error| {
            outcome_unknown |= may_be_carried_out(error);
            outcome_unknown && (may_be_carried_out(error) || is_temporary(error))
        })
        .call();
    result.map_err(|error| RetryError { error, outcome_unknown })
}

/// Whether the request may have arrived and been carried out.
fn may_be_carried_out(error: &ClientError) -> bool {
    match error {
        ClientError::NoResponse { source, .. } => match &**source {
            ureq::Error::Io(error) => !NOT_CONNECTED.contains(&error.kind()),
            ureq::Error::Timeout(timeout) => !matches!(timeout, Timeout::Resolve | Timeout::Connect),
            ureq::Error::Protocol(_) | ureq::Error::ConnectionFailed => true,
            _ => false,
        },
        ClientError::Refused { problem, .. } => problem.is_outcome_unknown(),
        // An intermediary lost the server after the server had the request (RFC 9110, sections 15.6.3 and 15.6.5). Envoy
        // answers 503 then.
        ClientError::UnexpectedResponse { status, .. } => matches!(status, 502..=504),
        ClientError::Rng(_) => false,
    }
}

/// The errors of a connection that was not established; the last one where the certificate is not trusted.
const NOT_CONNECTED: [ErrorKind; 6] = [
    ErrorKind::ConnectionRefused,
    ErrorKind::HostUnreachable,
    ErrorKind::NetworkUnreachable,
    ErrorKind::NetworkDown,
    ErrorKind::AddrNotAvailable,
    ErrorKind::InvalidData,
];

/// Whether the same request may succeed later.
fn is_temporary(error: &ClientError) -> bool {
    match error {
        ClientError::NoResponse { source, .. } => {
            matches!(**source, ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::HostNotFound)
        }
        ClientError::Refused { status, .. } | ClientError::UnexpectedResponse { status, .. } => *status == 503,
        ClientError::Rng(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    /// A clock that only sleeping moves.
    #[derive(Clone)]
    struct TestClock {
        started: Instant,
        pauses: Arc<Mutex<Vec<Duration>>>,
    }

    impl TestClock {
        fn new() -> Self {
            Self { started: Instant::now(), pauses: Arc::default() }
        }

        fn pauses(&self) -> Vec<Duration> {
            self.pauses.lock().unwrap().clone()
        }
    }

    impl Clock for TestClock {
        fn now(&self) -> Instant {
            self.started + self.pauses().iter().sum::<Duration>()
        }

        fn sleep(&self, pause: Duration) {
            self.pauses.lock().unwrap().push(pause);
        }
    }

    fn no_response(source: ureq::Error) -> ClientError {
        ClientError::NoResponse { url: "http://h".into(), source: Box::new(source) }
    }

    fn broken() -> ClientError {
        no_response(io::Error::from(ErrorKind::ConnectionReset).into())
    }

    fn not_connected() -> ClientError {
        no_response(io::Error::from(ErrorKind::ConnectionRefused).into())
    }

    fn refused(status: u16, problem: &str) -> ClientError {
        ClientError::refused_for_test(status, problem)
    }

    fn unexpected(status: u16) -> ClientError {
        ClientError::UnexpectedResponse { url: "http://h".into(), status }
    }

    #[test]
    fn not_carried_out_is_not_retried() {
        let untrusted = io::Error::new(ErrorKind::InvalidData, "certificate");
        for error in [
            not_connected(),
            no_response(untrusted.into()),
            no_response(ureq::Error::HostNotFound),
            no_response(ureq::Error::Timeout(Timeout::Resolve)),
            no_response(ureq::Error::Timeout(Timeout::Connect)),
            refused(401, "unauthorized"),
            refused(503, "unavailable"),
            refused(500, "internal"),
            unexpected(404),
        ] {
            let (clock, mut errors) = (TestClock::new(), vec![error]);
            let failed = retry(clock.clone(), || Err::<(), _>(errors.pop().unwrap())).unwrap_err();
            assert!(!failed.outcome_unknown && clock.pauses().is_empty(), "{failed:?}");
        }
    }

    #[test]
    fn lost_response_is_retried_through_temporary_errors() {
        for first in [
            broken(),
            no_response(ureq::Error::Timeout(Timeout::Global)),
            no_response(ureq::Error::Timeout(Timeout::RecvResponse)),
            refused(503, "outcome_unknown"),
            unexpected(503),
            unexpected(504),
        ] {
            let clock = TestClock::new();
            let mut errors = vec![refused(503, "unavailable"), broken(), not_connected(), first];
            let response = retry(clock.clone(), || errors.pop().map_or(Ok("created"), Err)).unwrap();
            // They grow by a factor of single precision.
            let pauses_ms: Vec<_> = clock.pauses().iter().map(Duration::as_millis).collect();
            assert_eq!((response, pauses_ms), ("created", vec![100, 200, 400, 800]));
        }
    }

    #[test]
    fn retries_end_after_twenty_seconds_with_the_last_error() {
        let (clock, mut n) = (TestClock::new(), 0);
        let failed = retry(clock.clone(), || {
            n += 1;
            Err::<(), _>(if n == 1 { broken() } else { not_connected() })
        });
        let failed = failed.unwrap_err();
        assert!(failed.outcome_unknown && matches!(failed.error, ClientError::NoResponse { .. }));
        let taken = clock.now() - clock.started;
        assert!(taken <= DEADLINE && taken > DEADLINE - MAX_PAUSE, "{taken:?}");
        assert_eq!(clock.pauses().iter().max(), Some(&MAX_PAUSE));
    }

    #[test]
    fn time_that_requests_take_counts_towards_the_deadline() {
        let (clock, mut n) = (TestClock::new(), 0);
        let slow = clock.clone();
        let failed = retry(clock, move || {
            n += 1;
            // Ten seconds for each request after the first.
            slow.sleep(Duration::from_secs(if n == 1 { 0 } else { 10 }));
            Err::<(), _>(if n < 4 { broken() } else { panic!("requested after the deadline") })
        });
        assert!(failed.unwrap_err().outcome_unknown);
    }

    #[test]
    fn refusal_after_a_lost_response_leaves_the_outcome_unknown() {
        let mut errors = vec![refused(401, "unauthorized"), broken()];
        let failed = retry(TestClock::new(), || Err::<(), _>(errors.pop().unwrap())).unwrap_err();
        assert!(failed.outcome_unknown && matches!(failed.error, ClientError::Refused { status: 401, .. }));
    }
}
