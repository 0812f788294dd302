//! How many bytes of bodies may be held at once for those who have shown no token: memory is given away as bytes come and
//! not for what is announced, so that who sends slowly keeps nobody out.

use super::problem::ApiError;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// What all requests of some routes may hold together, in bytes.
#[derive(Clone, Debug)]
pub(super) struct BodyBudget(Arc<Semaphore>);

/// What one request holds of it, until it is answered.
#[derive(Clone, Debug)]
pub(super) struct Reservation(Arc<Held>);

#[derive(Debug)]
struct Held {
    left: Arc<Semaphore>,
    bytes: AtomicUsize,
}

impl BodyBudget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Nothing yet.
    fn share(&self) -> Reservation {
        Reservation(Arc::new(Held { left: Arc::clone(&self.0), bytes: AtomicUsize::new(0) }))
    }
}

impl Reservation {
    /// Takes that many bytes more.
    ///
    /// # Errors
    /// If others hold them.
    pub(super) fn take(&self, bytes: usize) -> Result<(), ApiError> {
        let taken = u32::try_from(bytes).ok().and_then(|count| self.0.left.try_acquire_many(count).ok());
        taken.ok_or(ApiError::TooManyBodies)?.forget();
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.left.add_permits(*self.bytes.get_mut());
    }
}

/// Lets the bodies of these requests be held only as far as the allowance goes.
pub(super) async fn share(State(allowance): State<BodyBudget>, mut request: Request, next: Next) -> Response {
    let share = allowance.share();
    request.extensions_mut().insert(share.clone());
    let response = next.run(request).await;
    drop(share);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_has_taken_is_there_again_once_it_is_answered() {
        let allowance = BodyBudget::new(10);
        let (first, second) = (allowance.share(), allowance.share());
        first.take(4).unwrap();
        first.take(4).unwrap();
        assert!(matches!(second.take(3), Err(ApiError::TooManyBodies)));
        second.take(2).unwrap();
        let also_first = first.clone();
        drop(first);
        assert!(second.take(1).is_err());
        drop(also_first);
        second.take(8).unwrap();
    }
}
