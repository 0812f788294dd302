//! Large pages go out a few at a time.
//!
//! After an outage thousands of edges want a snapshot at once. Were all sent theirs at the same time, each would come slowly,
//! and the answers to keepalives of HTTP/2, which wait behind what is already on its way, would come too late: edges would
//! drop their connections, begin again, and none would ever be done.

use crate::store::Error;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// The turns to send a large page.
#[derive(Clone, Debug)]
pub struct Sending {
    turns: Arc<Semaphore>,
    patience: Duration,
    hold: Duration,
}

/// How much of a stream may lie between the page and the socket, in bytes.
pub(crate) const MAX_UNSENT: usize = 64 << 10;

/// The longest page that goes out at once, in bytes: it has room there whole.
const SMALL: usize = MAX_UNSENT;

/// A large page goes out in parts of so many bytes, so that its end tells that most of it was sent.
const PART: usize = 16 << 10;

/// The most large pages under way.
const TURNS: usize = 32;

/// How long a turn is waited for; an edge would give its poll up some seconds later.
const PATIENCE: Duration = Duration::from_secs(10);

/// After how long a reader that is slower is no reason for others to wait.
const HOLD: Duration = Duration::from_secs(5);

impl Default for Sending {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(TURNS)), patience: PATIENCE, hold: HOLD }
    }
}

impl Sending {
    /// The page as a body, once it is its turn.
    ///
    /// # Errors
    /// If that takes too long: the edge does well to ask again.
    pub async fn body(&self, page: Bytes) -> Result<Parts, Error> {
        if page.len() <= SMALL {
            return Ok(Parts { rest: page, part: SMALL, _taken: None });
        }
        let turn = timeout(self.patience, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Error::Crowded) };
        let (taken, gone) = oneshot::channel::<Infallible>();
        let hold = self.hold;
        tokio::spawn(async move {
            let _ = timeout(hold, gone).await;
            drop(turn);
        });
        Ok(Parts { rest: page, part: PART, _taken: Some(taken) })
    }
}

/// A page on its way.
#[derive(Debug)]
pub struct Parts {
    rest: Bytes,
    part: usize,
    /// Dropped with the page, and so tells that it was taken, or that the connection is gone.
    _taken: Option<oneshot::Sender<Infallible>>,
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.rest.len().min(self.part);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn large() -> Bytes {
        Bytes::from(vec![0; SMALL + 1])
    }

    fn one_at_a_time(patience: Duration, hold: Duration) -> Sending {
        Sending { turns: Arc::new(Semaphore::new(1)), patience, hold }
    }

    #[tokio::test]
    async fn a_large_page_waits_for_its_turn_and_a_small_one_does_not() {
        let sending = one_at_a_time(Duration::from_millis(50), Duration::from_secs(3600));
        let first = sending.body(large()).await.unwrap();
        assert!(matches!(sending.body(large()).await, Err(Error::Crowded)));
        assert!(sending.body(Bytes::from(vec![0; SMALL])).await.is_ok());
        let patient = Sending { patience: Duration::from_secs(60), ..sending };
        let waiting = tokio::spawn(async move { patient.body(large()).await.is_ok() });
        drop(first);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test]
    async fn a_slow_reader_keeps_its_turn_for_a_while_only() {
        let sending = one_at_a_time(Duration::from_secs(60), Duration::from_millis(50));
        let _slow = sending.body(large()).await.unwrap();
        assert!(sending.body(large()).await.is_ok());
    }

    #[test]
    fn the_parts_are_the_page() {
        let page: Bytes = (0..=255).cycle().take(3 * PART + 5).collect();
        let mut parts = Parts { rest: page.clone(), part: PART, _taken: None };
        let mut sent = Vec::new();
        let mut context = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut parts).poll_frame(&mut context) {
            let part = frame.into_data().unwrap();
            assert!(part.len() <= PART);
            sent.extend_from_slice(&part);
        }
        assert!(parts.is_end_stream());
        assert_eq!(sent, page);
    }
}
