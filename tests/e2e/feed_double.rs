//! A control plane that is told what to answer, for what the real one would never send or cannot make in a test's time.

use crate::common::SOON;
use keyward_contract::USAGE_PATH;
use keyward_contract::cursor::Position;
use keyward_contract::usage::{Batch, Receipt};
use keyward_harness::echo::{Answer, CLOSE};
use keyward_harness::ports::loopback;
use keyward_harness::{Echo, Failure, until};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// A control plane that sends just what it is given, to whoever asked last: a VM that hands the lease over leaves a poll
/// behind whose answer nobody wants.
pub(crate) struct Feed {
    server: Echo,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    state: Mutex<(u64, VecDeque<Vec<u8>>)>,
    changed: Notify,
    usage: Mutex<Usage>,
}

/// What is to become of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnUsage {
    /// It is answered.
    Take,
    /// It is refused with this status.
    Refuse(u16),
    /// It is taken, and the connection closed instead of an answer.
    TakeAndClose,
}

#[derive(Default)]
struct Usage {
    next: VecDeque<OnUsage>,
    always: Option<OnUsage>,
    received: Vec<(OnUsage, Vec<u8>)>,
}

impl Usage {
    fn answer(&mut self, body: Vec<u8>) -> Answer {
        let on_usage = self.next.pop_front().or(self.always).unwrap_or(OnUsage::Take);
        self.received.push((on_usage, body));
        match on_usage {
            OnUsage::Take => (200, "application/json", Receipt { interval_ms: 200 }.encode()),
            OnUsage::Refuse(status) => (status, "text/plain", Vec::new()),
            OnUsage::TakeAndClose => CLOSE,
        }
    }
}

impl Script {
    async fn answer(&self) -> Answer {
        let mine = {
            let mut state = self.state.lock().unwrap();
            state.0 += 1;
            state.0
        };
        self.changed.notify_waiters();
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state.lock().unwrap();
                if state.0 != mine {
                    return (503, "text/plain", Vec::new());
                }
                if let Some(page) = state.1.pop_front() {
                    return (200, "application/vnd.keyward.feed; version=1", page);
                }
            }
            changed.await;
        }
    }
}

impl Feed {
    pub(crate) async fn start() -> Self {
        let script = Arc::new(Script::default());
        let answering = Arc::clone(&script);
        let server = Echo::start_with("feed", loopback(0), move |request| {
            let script = Arc::clone(&answering);
            async move {
                if request.path == USAGE_PATH {
                    return script.usage.lock().unwrap().answer(request.body);
                }
                script.answer().await
            }
        });
        Self { server: server.await.unwrap(), script }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Answers the next poll, or the one that waits, with this page.
    pub(crate) fn send(&self, page: Vec<u8>) {
        self.script.state.lock().unwrap().1.push_back(page);
        self.script.changed.notify_waiters();
    }

    /// The position that the edge named last.
    pub(crate) async fn asked(&self) -> Position {
        until("the edge asks", SOON, async || {
            let seen = self.server.take_seen();
            let last = seen.iter().rfind(|request| request.path != USAGE_PATH);
            let last = last.ok_or_else(|| Failure::new("it does not"))?;
            let after = last.path.split(['?', '&']).find_map(|part| part.strip_prefix("after="));
            Ok(after.unwrap().parse().unwrap())
        })
        .await
        .unwrap()
    }

    /// What is to become of the next batches; of those behind them, what `always` says.
    pub(crate) fn on_usage(&self, next: &[OnUsage], always: OnUsage) {
        let mut usage = self.script.usage.lock().unwrap();
        usage.next = next.iter().copied().collect();
        usage.always = Some(always);
    }

    /// Every batch that was received so far, as it came.
    pub(crate) fn usage_received(&self) -> Vec<(OnUsage, Vec<u8>)> {
        self.script.usage.lock().unwrap().received.clone()
    }

    /// The batches that were taken, each once.
    pub(crate) fn usage_taken(&self) -> Vec<Batch> {
        let mut taken: Vec<Batch> = Vec::new();
        for (on_usage, body) in self.usage_received() {
            let batch = Batch::decode(&body).unwrap();
            if matches!(on_usage, OnUsage::Refuse(_)) {
                continue;
            }
            match taken.iter().find(|known| known.id == batch.id) {
                Some(known) => assert_eq!(*known, batch, "the same id with other contents"),
                None => taken.push(batch),
            }
        }
        taken
    }
}
