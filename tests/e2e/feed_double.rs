//! A test double of the control plane, for responses that the real one never sends or cannot produce in a test's time.

use crate::common::SOON;
use keyward_core::wire::cursor::Position;
use keyward_core::wire::page::{Extent, Page};
use keyward_core::wire::usage::{Batch, Receipt};
use keyward_core::wire::verify::{self, VERIFY_ANSWER_TYPE, VERIFY_PATH};
use keyward_core::{FEED_MEDIA_TYPE, FEED_PATH, USAGE_PATH};
use keyward_harness::echo::{Answer, CLOSE, Reply, SeenRequest};
use keyward_harness::ports::loopback;
use keyward_harness::{Echo, Failure, until};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// A control plane that sends only the given pages, to the latest poll: a VM that hands over the lease leaves a poll
/// behind whose response is unused.
pub(crate) struct Feed {
    server: Echo,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    /// Whether polls get no response other than the given pages.
    holds: AtomicBool,
    verify: watch::Sender<Verify>,
    asked: Mutex<Vec<SeenRequest>>,
    state: Mutex<(u64, VecDeque<Vec<u8>>)>,
    changed: Notify,
    usage: Mutex<Usage>,
}

/// The response to a usage batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnUsage {
    /// Accept the batch.
    Take,
    /// Reject the batch with this status.
    Refuse(u16),
    /// Accept the batch, and close the connection without a response.
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

/// The response to a verification.
#[derive(Clone, Debug, Default)]
pub(crate) enum Verify {
    /// No response until configured otherwise.
    #[default]
    Never,
    /// These credentials are correct, with the ids of their secrets; others are wrong.
    Secrets(HashMap<String, &'static str>),
    /// Overloaded; retry after this many seconds.
    Busy(&'static str),
    /// This status and body for any credential.
    Says(u16, Vec<u8>),
}

impl Script {
    async fn reply(&self, request: SeenRequest) -> Reply {
        match request.path.as_str() {
            USAGE_PATH => self.usage.lock().unwrap().answer(request.body).into(),
            VERIFY_PATH => self.verify(request).await,
            _ => self.answer(&request.path).await.into(),
        }
    }

    async fn verify(&self, request: SeenRequest) -> Reply {
        let credential = String::from_utf8(request.body.clone()).unwrap();
        self.asked.lock().unwrap().push(request);
        let mut behaviour = self.verify.subscribe();
        let verify = behaviour.wait_for(|verify| !matches!(verify, Verify::Never)).await.unwrap().clone();
        match verify {
            Verify::Secrets(secrets) => {
                let right = |id: &&str| verify::Answer::Right { secret_id: (*id).to_owned() };
                let answer = secrets.get(&credential).map_or(verify::Answer::Wrong, right);
                (200, VERIFY_ANSWER_TYPE, answer.encode().into_bytes()).into()
            }
            Verify::Busy(seconds) => {
                Reply { answer: (503, "text/plain", Vec::new()), header: Some(("retry-after", seconds)) }
            }
            Verify::Says(status, body) => (status, VERIFY_ANSWER_TYPE, body).into(),
            Verify::Never => unreachable!("handled by the wait above"),
        }
    }

    /// The next page to send; or, after the requested wait, a page without changes.
    async fn answer(&self, path: &str) -> Answer {
        let parameter = |name| path.split(['?', '&']).find_map(|part| part.strip_prefix(name));
        let wait: u64 = parameter("wait=").and_then(|wait| wait.parse().ok()).unwrap_or(0);
        let nothing = match parameter("after=").and_then(|after| after.parse().ok()) {
            Some(position @ Position::Changes { applied, seen }) if wait > 0 && !self.holds.load(Ordering::Relaxed) => {
                let extent = Extent::Changes { to: applied };
                let page = Page { summary: None, answers: position, head: seen, extent, entries: &[] };
                Some((200, FEED_MEDIA_TYPE, page.encode()))
            }
            _ => None,
        };
        let wait = if nothing.is_some() { Duration::from_secs(wait) } else { Duration::MAX };
        timeout(wait, self.page()).await.unwrap_or_else(|_| nothing.unwrap_or((503, "text/plain", Vec::new())))
    }

    async fn page(&self) -> Answer {
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
                    return (200, FEED_MEDIA_TYPE, page);
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
            async move { script.reply(request).await }
        });
        Self { server: server.await.unwrap(), script }
    }

    /// The listening address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Answers the next poll, or the waiting one, with this page.
    pub(crate) fn send(&self, page: Vec<u8>) {
        self.script.state.lock().unwrap().1.push_back(page);
        self.script.changed.notify_waiters();
    }

    /// Leaves polls without a response if there is no page, as if it was lost on the way.
    pub(crate) fn hold(&self) {
        self.script.holds.store(true, Ordering::Relaxed);
    }

    /// Answers verifications like this from now on, including those waiting.
    pub(crate) fn verify(&self, verify: Verify) {
        self.script.verify.send_replace(verify);
    }

    /// The verification requests since the last call.
    pub(crate) fn take_verified(&self) -> Vec<SeenRequest> {
        std::mem::take(&mut self.script.asked.lock().unwrap())
    }

    /// Waits for a verification request.
    pub(crate) async fn until_asked(&self) {
        until("a verification is requested", SOON, async || {
            let is_asked = !self.script.asked.lock().unwrap().is_empty();
            if is_asked { Ok(()) } else { Err(Failure::new("none yet")) }
        })
        .await
        .unwrap();
    }

    /// The position in the latest poll.
    pub(crate) async fn asked(&self) -> Position {
        until("the edge polls", SOON, async || {
            let seen = self.server.take_seen();
            let last = seen.iter().rfind(|request| request.path.starts_with(FEED_PATH));
            let last = last.ok_or_else(|| Failure::new("no poll"))?;
            let after = last.path.split(['?', '&']).find_map(|part| part.strip_prefix("after="));
            Ok(after.unwrap().parse().unwrap())
        })
        .await
        .unwrap()
    }

    /// Sets the responses to the next batches, and to those after them.
    pub(crate) fn on_usage(&self, next: &[OnUsage], always: OnUsage) {
        let mut usage = self.script.usage.lock().unwrap();
        usage.next = next.iter().copied().collect();
        usage.always = Some(always);
    }

    /// Every batch received so far, as sent.
    pub(crate) fn usage_received(&self) -> Vec<(OnUsage, Vec<u8>)> {
        self.script.usage.lock().unwrap().received.clone()
    }

    /// The accepted batches, each once.
    pub(crate) fn usage_taken(&self) -> Vec<Batch> {
        let mut taken: Vec<Batch> = Vec::new();
        for (on_usage, body) in self.usage_received() {
            let batch = Batch::decode(&body).unwrap();
            if matches!(on_usage, OnUsage::Refuse(_)) {
                continue;
            }
            match taken.iter().find(|known| known.id == batch.id) {
                Some(known) => assert_eq!(*known, batch, "the same id with different contents"),
                None => taken.push(batch),
            }
        }
        taken
    }
}
