//! Every loop that is spawned is registered here, with what its end means.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What it means when a loop panics. A loop that returns was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnPanic {
    /// It keeps nothing in memory that could be wrong: it starts again.
    Restart,
    /// It held executions; the process must stop, and its lease ends.
    StopEngine,
}

/// The pause before a loop starts again, so that a loop that panics at once does not take a core.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The loops of one engine.
#[derive(Debug, Clone, Default)]
pub(super) struct Loops {
    handles: Arc<Mutex<Vec<JoinHandle<()>>>>,
    /// Fires when a loop ended that the engine cannot go on without.
    pub(super) broken: CancellationToken,
}

impl Loops {
    /// Spawns a loop. `start` makes its future, again after every restart.
    pub(super) fn spawn<F>(
        &self,
        name: &'static str,
        on_panic: OnPanic,
        start: impl Fn() -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let broken = self.broken.clone();
        let handle = tokio::spawn(async move {
            while AssertUnwindSafe(start()).catch_unwind().await.is_err() {
                match on_panic {
                    OnPanic::Restart => {
                        tracing::error!("the loop `{name}` panicked; it starts again");
                        tokio::time::sleep(RESTART_PAUSE).await;
                    }
                    OnPanic::StopEngine => {
                        tracing::error!("the loop `{name}` panicked; this engine stops");
                        broken.cancel();
                        return;
                    }
                }
            }
        });
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(handle);
    }

    /// Waits until every loop has ended. They were told to before.
    pub(super) async fn join(&self) {
        let handles =
            std::mem::take(&mut *self.handles.lock().unwrap_or_else(PoisonError::into_inner));
        for handle in handles {
            // A panic was caught and logged inside.
            let _caught = handle.await;
        }
    }
}
