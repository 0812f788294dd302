//! A feed that is told what to send, for what the control plane would never send or cannot make in a test's time.

use crate::common::SOON;
use keyward_contract::cursor::Position;
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
}

impl Script {
    async fn answer(&self) -> (u16, &'static str, Vec<u8>) {
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
        let server = Echo::start_with("feed", loopback(0), move |_| {
            let script = Arc::clone(&answering);
            async move { script.answer().await }
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
            let last = seen.last().ok_or_else(|| Failure::new("it does not"))?;
            let after = last.path.split(['?', '&']).find_map(|part| part.strip_prefix("after="));
            Ok(after.unwrap().parse().unwrap())
        })
        .await
        .unwrap()
    }
}
