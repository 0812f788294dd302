//! A feed that is told what to send, for what the control plane would never send or cannot make in a test's time, and
//! that checks credentials as it is told to.

use crate::common::SOON;
use keyward_contract::FEED_PATH;
use keyward_contract::cursor::Position;
use keyward_contract::verify::{Answer, VERIFY_ANSWER_TYPE, VERIFY_PATH};
use keyward_harness::echo::{Reply, SeenRequest};
use keyward_harness::ports::loopback;
use keyward_harness::{Echo, Failure, until};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, watch};

/// A control plane that sends just what it is given, to whoever asked last: a VM that hands the lease over leaves a poll
/// behind whose answer nobody wants.
pub(crate) struct Feed {
    server: Echo,
    script: Arc<Script>,
}

#[derive(Default)]
struct Script {
    verify: watch::Sender<Verify>,
    asked: Mutex<Vec<SeenRequest>>,
    state: Mutex<(u64, VecDeque<Vec<u8>>)>,
    changed: Notify,
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
}

impl Script {
    async fn verify(&self, request: SeenRequest) -> Reply {
        let credential = String::from_utf8(request.body.clone()).unwrap();
        self.asked.lock().unwrap().push(request);
        let mut told = self.verify.subscribe();
        let verify = told.wait_for(|verify| !matches!(verify, Verify::Never)).await.unwrap().clone();
        match verify {
            Verify::Secrets(secrets) => {
                let right = |id: &&str| Answer::Right { secret_id: (*id).to_owned() };
                let answer = secrets.get(&credential).map_or(Answer::Wrong, right);
                (200, VERIFY_ANSWER_TYPE, answer.encode().into_bytes()).into()
            }
            Verify::Busy(seconds) => {
                Reply { answer: (503, "text/plain", Vec::new()), header: Some(("retry-after", seconds)) }
            }
            Verify::Never => unreachable!("it was waited for"),
        }
    }

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
        let server = Echo::start_with("feed", loopback(0), move |request: SeenRequest| {
            let script = Arc::clone(&answering);
            async move {
                if request.path == VERIFY_PATH { script.verify(request).await } else { script.answer().await.into() }
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
            let last = seen
                .iter()
                .rfind(|seen| seen.path.starts_with(FEED_PATH))
                .ok_or_else(|| Failure::new("it does not"))?;
            let after = last.path.split(['?', '&']).find_map(|part| part.strip_prefix("after="));
            Ok(after.unwrap().parse().unwrap())
        })
        .await
        .unwrap()
    }
}
