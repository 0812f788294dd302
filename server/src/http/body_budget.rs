//! A memory budget for the bodies of requests without a token: bytes are reserved as they arrive, not as announced, so that
//! slow senders do not keep others out.

use super::problem::ApiError;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// The bytes that all requests of some routes may hold together.
#[derive(Clone, Debug)]
pub(super) struct BodyBudget(Arc<Semaphore>);

/// The bytes that one request holds of a budget, until its response is complete.
#[derive(Clone, Debug)]
pub(super) struct Reservation(Arc<Held>);

#[derive(Debug)]
struct Held {
    budget: Arc<Semaphore>,
    bytes: AtomicUsize,
}

impl BodyBudget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    fn empty_reservation(&self) -> Reservation {
        Reservation(Arc::new(Held { budget: Arc::clone(&self.0), bytes: AtomicUsize::new(0) }))
    }
}

impl Reservation {
    /// Reserves that many bytes more; fails if other requests hold them.
    pub(super) fn grow(&self, bytes: usize) -> Result<(), ApiError> {
        let taken = u32::try_from(bytes).ok().and_then(|count| self.0.budget.try_acquire_many(count).ok());
        taken.ok_or(ApiError::BodyBudgetExhausted)?.forget();
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.add_permits(*self.bytes.get_mut());
    }
}

/// Middleware that accounts the bodies of requests to a budget.
pub(super) async fn account(State(budget): State<BodyBudget>, mut request: Request, next: Next) -> Response {
    let reservation = budget.empty_reservation();
    request.extensions_mut().insert(reservation.clone());
    let response = next.run(request).await;
    drop(reservation);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_has_taken_is_there_again_once_it_is_answered() {
        let budget = BodyBudget::new(10);
        let (first, second) = (budget.empty_reservation(), budget.empty_reservation());
        first.grow(4).unwrap();
        first.grow(4).unwrap();
        assert!(matches!(second.grow(3), Err(ApiError::BodyBudgetExhausted)));
        second.grow(2).unwrap();
        let also_first = first.clone();
        drop(first);
        assert!(second.grow(1).is_err());
        drop(also_first);
        second.grow(8).unwrap();
    }
}
