//! The thread for transactions that write.
//!
//! A transaction takes some ten steps. On the threads that serve requests, each step would wait behind thousands of edges that receive the
//! change before, and rapid changes would time out.

use std::io;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// The thread; it ends with the last clone.
#[derive(Clone, Debug)]
pub(super) struct Writing(Arc<Thread>);

/// `None` only while it is dropped.
#[derive(Debug)]
struct Thread(Option<Runtime>);

impl Writing {
    /// A thread that waits for changes to make.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("writing").enable_all().build()?;
        Ok(Self(Arc::new(Thread(Some(runtime)))))
    }

    /// Does it there, whether or not it is waited for.
    pub(super) fn spawn<T: Send + 'static>(&self, write: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        match &self.0.0 {
            Some(runtime) => runtime.spawn(write),
            None => tokio::spawn(write),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Not joined: the last clone may be dropped where blocking is not allowed. `Store::close` waits for the running write.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::clock::Timestamp;
    use crate::model::Actor;
    use crate::store::{Location, Store};
    use keyward_core::key::digest::Digest;
    use keyward_core::wire::entry::Body;
    use std::time::{Duration, Instant};

    async fn change(store: &Store, subject: u8) {
        let append = store.mutate(Actor::server(), Timestamp::EXAMPLE, move |mutation| {
            Box::pin(mutation.append(Digest([subject; 32]), Body::Removed))
        });
        append.await.unwrap();
    }

    #[tokio::test]
    async fn a_change_is_made_and_published_while_the_threads_that_serve_are_busy() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Directory(dir.path().to_owned())).await.unwrap();
        // The first gets the connection with which the database was opened, and that is given back on this thread.
        change(&store, 1).await;
        let before = store.hub().head();
        let changing = tokio::spawn({
            let store = store.clone();
            async move { change(&store, 2).await }
        });
        tokio::task::yield_now().await;
        // From here on nothing else runs on this thread, which is all that this runtime has.
        let deadline = Instant::now() + Duration::from_secs(10);
        while store.hub().head() == before {
            assert!(Instant::now() < deadline, "the change waits for this thread");
            std::thread::sleep(Duration::from_millis(1));
        }
        changing.await.unwrap();
    }
}
