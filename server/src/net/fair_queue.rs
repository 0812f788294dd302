//! A bounded fair queue: callers are served round-robin, so that a caller with a thousand requests delays only itself.
//!
//! The number of requests in progress and of waiting ones is bounded for each caller and in total. When there is room, the waiting
//! caller that was served longest ago is next, with its oldest request.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The maximum of requests in progress.
    pub at_once: usize,
    /// The maximum of requests in progress of one caller.
    pub at_once_per_caller: usize,
    /// The maximum of waiting requests.
    pub waiting: usize,
    /// The maximum of waiting requests of one caller.
    pub waiting_per_caller: usize,
}

/// The queue; clones share it.
pub struct FairQueue<C: Hash + Eq + Clone>(Arc<Shared<C>>);

/// The permit to be served; dropping it serves the next request.
pub struct Permit<C: Hash + Eq + Clone> {
    /// `None` once it was given back.
    queue: Option<FairQueue<C>>,
    caller: C,
}

/// Why a request cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The maximum of requests of this caller wait.
    OfCaller,
    /// The maximum of requests wait.
    OfAll,
}

struct Shared<C: Hash + Eq + Clone> {
    bounds: Bounds,
    state: Mutex<State<C>>,
}

struct State<C: Hash + Eq + Clone> {
    served: usize,
    waiting: usize,
    /// The callers with requests in progress or waiting.
    callers: HashMap<C, Caller<C>>,
    /// The callers with waiting requests, each once; the next one first.
    rotation: VecDeque<C>,
}

struct Caller<C: Hash + Eq + Clone> {
    served: usize,
    waiting: VecDeque<oneshot::Sender<Permit<C>>>,
}

/// A waiting request; it leaves the queue when dropped.
struct Waiting<C: Hash + Eq + Clone> {
    queue: FairQueue<C>,
    caller: C,
    permit: oneshot::Receiver<Permit<C>>,
    is_served: bool,
}

impl<C: Hash + Eq + Clone> FairQueue<C> {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        let state = State { served: 0, waiting: 0, callers: HashMap::new(), rotation: VecDeque::new() };
        Self(Arc::new(Shared { bounds, state: Mutex::new(state) }))
    }

    /// Waits for a permit; fails at once if the queue is full.
    pub async fn acquire(&self, caller: C) -> Result<Permit<C>, Full> {
        let mut waiting = match self.enter(caller)? {
            Entered::Served(permit) => return Ok(permit),
            Entered::Waits(waiting) => waiting,
        };
        // The sender stays in the queue for as long as this waits.
        let permit = (&mut waiting.permit).await.map_err(|_| Full::OfAll)?;
        waiting.is_served = true;
        Ok(permit)
    }

    /// The number of waiting requests.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.state().waiting
    }

    fn enter(&self, caller: C) -> Result<Entered<C>, Full> {
        let bounds = self.0.bounds;
        let mut state = self.state();
        let (served, waits) = state.callers.get(&caller).map_or((0, 0), |of| (of.served, of.waiting.len()));
        // Waiting requests are served as soon as there is room, so none is overtaken here.
        if state.served < bounds.at_once && served < bounds.at_once_per_caller {
            state.served += 1;
            state.of(&caller).served += 1;
            return Ok(Entered::Served(Permit { queue: Some(self.clone()), caller }));
        }
        if waits >= bounds.waiting_per_caller {
            return Err(Full::OfCaller);
        }
        if state.waiting >= bounds.waiting {
            return Err(Full::OfAll);
        }
        let (serve, permit) = oneshot::channel();
        if waits == 0 {
            state.rotation.push_back(caller.clone());
        }
        state.waiting += 1;
        state.of(&caller).waiting.push_back(serve);
        Ok(Entered::Waits(Waiting { queue: self.clone(), caller, permit, is_served: false }))
    }

    /// Returns a permit, and serves the next request.
    fn release(&self, caller: &C) {
        let mut state = self.state();
        state.served = state.served.saturating_sub(1);
        let of = state.of(caller);
        of.served = of.served.saturating_sub(1);
        state.tidy(caller);
        self.serve_next(&mut state);
    }

    fn serve_next(&self, state: &mut State<C>) {
        let bounds = self.0.bounds;
        while state.served < bounds.at_once {
            let may_be_served =
                |caller: &C| state.callers.get(caller).is_some_and(|of| of.served < bounds.at_once_per_caller);
            let Some(place) = state.rotation.iter().position(may_be_served) else { return };
            let Some(caller) = state.rotation.remove(place) else { return };
            let of = state.of(&caller);
            let next = of.waiting.pop_front();
            if !of.waiting.is_empty() {
                state.rotation.push_back(caller.clone());
            }
            let Some(next) = next else { continue };
            state.waiting -= 1;
            match next.send(Permit { queue: Some(self.clone()), caller: caller.clone() }) {
                Ok(()) => {
                    state.served += 1;
                    state.of(&caller).served += 1;
                }
                // It went away. Nothing was counted, so nothing is given back.
                Err(mut permit) => drop(permit.queue.take()),
            }
            state.tidy(&caller);
        }
    }

    /// Takes those out of the queue that have gone away.
    fn leave(&self, caller: &C) {
        let mut state = self.state();
        let Some(of) = state.callers.get_mut(caller) else { return };
        let before = of.waiting.len();
        of.waiting.retain(|waiting| !waiting.is_closed());
        let (gone, is_empty) = (before - of.waiting.len(), of.waiting.is_empty());
        state.waiting -= gone;
        if gone > 0 && is_empty {
            state.rotation.retain(|waits| waits != caller);
        }
        state.tidy(caller);
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Entered<C: Hash + Eq + Clone> {
    Served(Permit<C>),
    Waits(Waiting<C>),
}

impl<C: Hash + Eq + Clone> State<C> {
    fn of(&mut self, caller: &C) -> &mut Caller<C> {
        self.callers.entry(caller.clone()).or_insert_with(|| Caller { served: 0, waiting: VecDeque::new() })
    }

    /// Forgets a caller of whom nothing is left.
    fn tidy(&mut self, caller: &C) {
        if self.callers.get(caller).is_some_and(|of| of.served == 0 && of.waiting.is_empty()) {
            self.callers.remove(caller);
        }
    }
}

impl<C: Hash + Eq + Clone> Drop for Permit<C> {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.release(&self.caller);
        }
    }
}

impl<C: Hash + Eq + Clone> Drop for Waiting<C> {
    fn drop(&mut self) {
        if !self.is_served {
            // A permit that has arrived meanwhile is dropped with the receiver.
            self.permit.close();
            self.queue.leave(&self.caller);
        }
    }
}

impl<C: Hash + Eq + Clone> Clone for FairQueue<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Hash + Eq + Clone> fmt::Debug for FairQueue<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairQueue").field("bounds", &self.0.bounds).finish_non_exhaustive()
    }
}

impl<C: Hash + Eq + Clone> fmt::Debug for Permit<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use std::pin::Pin;

    type Acquiring<'a> = Pin<Box<dyn Future<Output = Result<Permit<u8>, Full>> + 'a>>;

    fn queue(at_once: usize, at_once_per_caller: usize, waiting: usize, waiting_per_caller: usize) -> FairQueue<u8> {
        FairQueue::new(Bounds { at_once, at_once_per_caller, waiting, waiting_per_caller })
    }

    fn served(queue: &FairQueue<u8>, caller: u8) -> Permit<u8> {
        queue.acquire(caller).now_or_never().expect("room").unwrap()
    }

    /// Asks, and waits.
    fn waits(queue: &FairQueue<u8>, caller: u8) -> Acquiring<'_> {
        let mut acquiring: Acquiring<'_> = Box::pin(queue.acquire(caller));
        assert!(acquiring.as_mut().now_or_never().is_none());
        acquiring
    }

    #[test]
    fn callers_are_served_in_turn() {
        let queue = queue(1, 1, 100, 100);
        let mut permit = Some(served(&queue, 1));
        let mut waiting: Vec<_> = [1, 1, 1, 2, 2, 3].map(|caller| (caller, waits(&queue, caller))).into();
        let mut order = Vec::new();
        while !waiting.is_empty() {
            permit.take();
            let next = waiting.iter_mut().position(|(_, acquiring)| match acquiring.as_mut().now_or_never() {
                Some(acquired) => {
                    permit = Some(acquired.unwrap());
                    true
                }
                None => false,
            });
            order.push(waiting.remove(next.unwrap()).0);
        }
        assert_eq!(order, [1, 2, 3, 1, 2, 1]);
    }

    #[test]
    fn a_caller_at_its_bound_leaves_room_to_others() {
        let queue = queue(2, 1, 100, 100);
        let _first = served(&queue, 1);
        let mut second = waits(&queue, 1);
        let other = served(&queue, 2);
        drop(other);
        assert!(second.as_mut().now_or_never().is_none());
        drop(served(&queue, 3));
    }

    #[test]
    fn full_queues_refuse_at_once() {
        let queue = queue(1, 1, 3, 2);
        let _permit = served(&queue, 1);
        let _waiting = [waits(&queue, 1), waits(&queue, 1), waits(&queue, 2)];
        let refused = |caller| queue.acquire(caller).now_or_never().unwrap().unwrap_err();
        assert_eq!((refused(1), refused(2)), (Full::OfCaller, Full::OfAll));
    }

    #[test]
    fn who_goes_away_makes_room() {
        let queue = queue(1, 1, 1, 1);
        let permit = served(&queue, 1);
        drop(waits(&queue, 2));
        assert_eq!(queue.waiting(), 0);
        // One that goes away with the permit already sent to it gives it back.
        let gone = waits(&queue, 2);
        drop(permit);
        drop(gone);
        drop(served(&queue, 3));
        assert!(queue.state().callers.is_empty() && queue.state().rotation.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(u8),
        Poll(usize),
        GoAway(usize),
        Finish(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4_u8).prop_map(Step::Ask),
            any::<usize>().prop_map(Step::Poll),
            any::<usize>().prop_map(Step::GoAway),
            any::<usize>().prop_map(Step::Finish),
        ]
    }

    proptest! {
        /// Nothing is lost and no bound is passed, whoever goes away when; and nobody waits while there is room for it.
        #[test]
        fn bounds_hold_and_no_room_is_wasted(steps in proptest::collection::vec(step(), 0..200)) {
            let queue = queue(3, 2, 6, 3);
            let (mut permits, mut waiting) = (Vec::new(), Vec::<(u8, Acquiring<'_>)>::new());
            for step in steps {
                match step {
                    Step::Ask(caller) => {
                        let mut acquiring: Acquiring<'_> = Box::pin(queue.acquire(caller));
                        match acquiring.as_mut().now_or_never() {
                            Some(Ok(permit)) => permits.push(permit),
                            Some(Err(_)) => {}
                            None => waiting.push((caller, acquiring)),
                        }
                    }
                    Step::Poll(n) if !waiting.is_empty() => {
                        let n = n % waiting.len();
                        if let Some(acquired) = waiting[n].1.as_mut().now_or_never() {
                            permits.push(acquired.unwrap());
                            drop(waiting.remove(n));
                        }
                    }
                    Step::GoAway(n) if !waiting.is_empty() => drop(waiting.remove(n % waiting.len())),
                    Step::Finish(n) if !permits.is_empty() => drop(permits.remove(n % permits.len())),
                    _ => {}
                }
                let state = queue.state();
                prop_assert!(state.served <= 3 && state.waiting <= 6);
                prop_assert_eq!(state.served, state.callers.values().map(|of| of.served).sum::<usize>());
                prop_assert_eq!(state.waiting, state.callers.values().map(|of| of.waiting.len()).sum::<usize>());
                prop_assert!(state.callers.values().all(|of| of.served <= 2 && of.waiting.len() <= 3));
                let idle = state.served < 3
                    && state.callers.values().any(|of| of.served < 2 && !of.waiting.is_empty());
                prop_assert!(!idle, "somebody waits though there is room");
                prop_assert!(state.waiting == 0 || !state.rotation.is_empty());
            }
            drop((waiting, permits));
            prop_assert!(queue.state().callers.is_empty() && queue.state().served == 0);
        }
    }
}
