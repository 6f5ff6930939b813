//! Log lines on their way to the store: gathered over all running tries, written a few times a second, and the last
//! ones with the result they belong to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio_util::sync::CancellationToken;

use super::outage::{Outage, Pauses};
use crate::{
    model::InstanceId,
    store::{LogLine, Store},
};

/// How long a line waits for others.
const GATHER: Duration = Duration::from_millis(200);
/// So many lines are written at once without waiting.
const ENOUGH: usize = 500;
/// With so many lines unwritten (Postgres is slow or away), tasks that write more have to wait.
const TOO_MANY: usize = 20_000;

/// Gathers what tries leave while they run. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Recorder {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    pending: Mutex<Pending>,
    /// Held while a batch is on its way, so that a try's result cannot overtake its lines.
    flight: AsyncMutex<()>,
    gathered: Notify,
    enough: Notify,
    room: Notify,
}

#[derive(Default)]
struct Pending {
    lines: HashMap<InstanceId, Vec<LogLine>>,
    line_count: usize,
    rendered: HashMap<InstanceId, (i32, Value)>,
}

impl Recorder {
    /// Takes a line. Waits while too many are unwritten.
    pub(super) async fn line(&self, line: LogLine) {
        loop {
            let room = self.inner.room.notified();
            {
                let mut pending = self.pending();
                if pending.line_count < TOO_MANY {
                    pending
                        .lines
                        .entry(line.instance_id)
                        .or_default()
                        .push(line);
                    pending.line_count += 1;
                    if pending.line_count >= ENOUGH {
                        self.inner.enough.notify_one();
                    }
                    self.inner.gathered.notify_one();
                    return;
                }
            }
            room.await;
        }
    }

    /// Takes what the templates of a try became.
    pub(super) fn rendered(&self, instance: InstanceId, try_number: i32, rendered: Value) {
        self.pending()
            .rendered
            .insert(instance, (try_number, rendered));
        self.inner.gathered.notify_one();
    }

    /// What is not written yet of a try that has ended, to be stored with its result.
    pub(super) async fn take(&self, instance: InstanceId) -> (Vec<LogLine>, Option<Value>) {
        let _landed = self.inner.flight.lock().await;
        let mut pending = self.pending();
        let lines = pending.lines.remove(&instance).unwrap_or_default();
        pending.line_count -= lines.len();
        let rendered = pending
            .rendered
            .remove(&instance)
            .map(|(_, rendered)| rendered);
        drop(pending);
        self.inner.room.notify_waiters();
        (lines, rendered)
    }

    /// Writes what is gathered, until the process stops.
    pub(super) async fn write(&self, store: Store, outage: Outage, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.inner.gathered.notified() => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.inner.enough.notified() => {}
                () = tokio::time::sleep(GATHER) => {}
            }
            self.flush(&store, &outage, &stop).await;
        }
    }

    async fn flush(&self, store: &Store, outage: &Outage, stop: &CancellationToken) {
        let _in_flight = self.inner.flight.lock().await;
        let (lines, rendered) = {
            let mut pending = self.pending();
            pending.line_count = 0;
            let lines: Vec<_> = pending.lines.drain().flat_map(|(_, lines)| lines).collect();
            let rendered: Vec<_> = pending
                .rendered
                .drain()
                .map(|(instance, (number, value))| (instance, number, value))
                .collect();
            (lines, rendered)
        };
        if lines.is_empty() && rendered.is_empty() {
            return;
        }
        let mut pauses = Pauses::default();
        loop {
            let question = outage.asking();
            match store.append(&lines, &rendered).await {
                Ok(()) => {
                    question.answered();
                    break;
                }
                Err(error) if error.is_unavailable() => question.failed(&error),
                Err(error) => {
                    tracing::error!(%error, lines = lines.len(), "log lines could not be stored and are lost");
                    break;
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pauses.next()) => {}
            }
        }
        self.inner.room.notify_waiters();
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.inner
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
