//! A control plane that is told what to answer, for what the real one would never send or cannot make in a test's time.

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

/// A control plane that sends just what it is given, to whoever asked last: a VM that hands the lease over leaves a poll
/// behind whose answer nobody wants.
pub(crate) struct Feed {
    server: Echo,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    /// Whether polls have no answer but what is sent.
    holds: AtomicBool,
    verify: watch::Sender<Verify>,
    asked: Mutex<Vec<SeenRequest>>,
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

/// How credentials are checked.
#[derive(Clone, Debug, Default)]
pub(crate) enum Verify {
    /// Not until it is told otherwise.
    #[default]
    Never,
    /// These are right, and the ids of the secrets that they are; others are wrong.
    Secrets(HashMap<String, &'static str>),
    /// Too many are being checked; try again after so many seconds.
    Busy(&'static str),
    /// With this status and body, whatever is asked.
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
        let mut told = self.verify.subscribe();
        let verify = told.wait_for(|verify| !matches!(verify, Verify::Never)).await.unwrap().clone();
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
            Verify::Never => unreachable!("it was waited for"),
        }
    }

    /// The next page that is to be sent; or, once the edge has waited for as long as it wants, that there is nothing new.
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

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Answers the next poll, or the one that waits, with this page.
    pub(crate) fn send(&self, page: Vec<u8>) {
        self.script.state.lock().unwrap().1.push_back(page);
        self.script.changed.notify_waiters();
    }

    /// Lets polls wait for ever where nothing is sent, like something on the way that has lost the answer.
    pub(crate) fn hold(&self) {
        self.script.holds.store(true, Ordering::Relaxed);
    }

    /// Checks credentials like this from now on, also those that wait.
    pub(crate) fn verify(&self, verify: Verify) {
        self.script.verify.send_replace(verify);
    }

    /// The credentials that it was asked to check since it was asked for them before.
    pub(crate) fn take_verified(&self) -> Vec<SeenRequest> {
        std::mem::take(&mut self.script.asked.lock().unwrap())
    }

    /// Waits until it is asked to check a credential.
    pub(crate) async fn until_asked(&self) {
        until("a credential is to be checked", SOON, async || {
            let is_asked = !self.script.asked.lock().unwrap().is_empty();
            if is_asked { Ok(()) } else { Err(Failure::new("none is")) }
        })
        .await
        .unwrap();
    }

    /// The position that the edge named last.
    pub(crate) async fn asked(&self) -> Position {
        until("the edge asks", SOON, async || {
            let seen = self.server.take_seen();
            let last = seen.iter().rfind(|request| request.path.starts_with(FEED_PATH));
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
