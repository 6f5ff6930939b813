//! Wake-ups within a process and between processes. The bell only wakes: the database decides, and a ring that is lost
//! costs no more than the time until the next heartbeat.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::outage::{Outage, Pauses};
use crate::store::{Effects, Error, Store};

const CHANNEL: &str = "pinwheel";

/// What somebody waits for: other processes are told of it this soon after it happened, and this often at most.
const WORK_DEBOUNCE: Duration = Duration::from_millis(5);
/// What is only watched.
const CHANGE_DEBOUNCE: Duration = Duration::from_millis(50);

const WORK: u8 = 1;
const DEADLINE: u8 = 2;
const CANCELLED: u8 = 4;
const CHANGE: u8 = 8;
const EVERYTHING: u8 = WORK | DEADLINE | CANCELLED | CHANGE;

/// Rings local and remote listeners. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bell {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Tells this process's own notifications from others'.
    id: String,
    work: watch::Sender<u64>,
    deadline: watch::Sender<u64>,
    cancelled: watch::Sender<u64>,
    changes: watch::Sender<u64>,
    /// What other processes have not been told yet.
    outgoing: AtomicU8,
    outgoing_changed: watch::Sender<u64>,
}

/// A waker that was armed when it was made, or when [`Waker::arm`] was last called.
#[derive(Debug, Clone)]
pub(super) struct Waker {
    rings: watch::Receiver<u64>,
}

impl Waker {
    /// Forgets earlier rings. To be called before looking, never after.
    pub(super) fn arm(&mut self) {
        self.rings.borrow_and_update();
    }

    /// Waits for a ring since the waker was armed.
    pub(super) async fn rung(&mut self) {
        if self.rings.changed().await.is_err() {
            // The bell is gone: its process is stopping, and nothing will ring again.
            std::future::pending::<()>().await;
        }
    }
}

impl Bell {
    pub(super) fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                id: uuid::Uuid::new_v4().simple().to_string(),
                work: watch::Sender::new(0),
                deadline: watch::Sender::new(0),
                cancelled: watch::Sender::new(0),
                changes: watch::Sender::new(0),
                outgoing: AtomicU8::new(0),
                outgoing_changed: watch::Sender::new(0),
            }),
        }
    }

    /// Says that there is something to look at: a new run, a cancelled one, a paused DAG.
    pub fn ring(&self) {
        self.ring_here(EVERYTHING);
        self.ring_elsewhere(EVERYTHING);
    }

    /// Rings for what a transaction left to others. The finisher has claimed what it can, so often that is nothing but
    /// a change that somebody may watch.
    pub(super) fn ring_for(&self, effects: Effects) {
        let bits = CHANGE
            | if effects.work { WORK } else { 0 }
            | if effects.deadline { DEADLINE } else { 0 }
            | if effects.cancelled { CANCELLED } else { 0 };
        self.ring_here(bits);
        self.ring_elsewhere(bits);
    }

    pub(super) fn on_work(&self) -> Waker {
        Waker {
            rings: self.inner.work.subscribe(),
        }
    }

    pub(super) fn on_deadline(&self) -> Waker {
        Waker {
            rings: self.inner.deadline.subscribe(),
        }
    }

    pub(super) fn on_cancelled(&self) -> Waker {
        Waker {
            rings: self.inner.cancelled.subscribe(),
        }
    }

    pub(super) fn changes(&self) -> Changes {
        Changes {
            rings: self.inner.changes.subscribe(),
            _listening: None,
        }
    }

    pub(super) fn look_for_work(&self) {
        self.ring_here(WORK);
    }

    fn ring_here(&self, bits: u8) {
        let bump = |sender: &watch::Sender<u64>| {
            sender.send_modify(|rings| *rings = rings.wrapping_add(1))
        };
        if bits & WORK != 0 {
            bump(&self.inner.work);
        }
        if bits & DEADLINE != 0 {
            bump(&self.inner.deadline);
        }
        if bits & CANCELLED != 0 {
            bump(&self.inner.cancelled);
        }
        if bits & CHANGE != 0 {
            bump(&self.inner.changes);
        }
    }

    fn ring_elsewhere(&self, bits: u8) {
        if self.inner.outgoing.fetch_or(bits, Ordering::Relaxed) & bits != bits {
            self.inner
                .outgoing_changed
                .send_modify(|rings| *rings = rings.wrapping_add(1));
        }
    }

    /// Tells other processes, debounced. Runs until the process stops.
    pub(super) async fn notify_others(
        &self,
        store: Store,
        outage: Outage,
        stop: CancellationToken,
    ) {
        let mut waker = Waker {
            rings: self.inner.outgoing_changed.subscribe(),
        };
        let mut last = Instant::now();
        let mut pauses = Pauses::default();
        loop {
            waker.arm();
            let pending = self.inner.outgoing.load(Ordering::Relaxed);
            let due = last
                + if pending == CHANGE {
                    CHANGE_DEBOUNCE
                } else {
                    WORK_DEBOUNCE
                };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = waker.rung() => continue,
                () = tokio::time::sleep_until(due), if pending != 0 => {}
            }
            let bits = self.inner.outgoing.swap(0, Ordering::Relaxed);
            let question = outage.asking();
            match store.notify(&format!("{} {bits}", self.inner.id)).await {
                Ok(()) => {
                    question.answered();
                    pauses.reset();
                    last = Instant::now();
                }
                Err(error) => {
                    question.failed(&error);
                    self.inner.outgoing.fetch_or(bits, Ordering::Relaxed);
                    last = Instant::now() + pauses.next();
                }
            }
        }
    }

    /// Hears other processes. Whenever it could have missed something it says "look". Runs until the process stops.
    pub(super) async fn hear_others(&self, store: Store, stop: CancellationToken) {
        let heard =
            |payload: Option<&str>| match payload.and_then(|payload| payload.split_once(' ')) {
                Some((id, _)) if id == self.inner.id => {}
                Some((_, bits)) => self.ring_here(bits.parse().unwrap_or(EVERYTHING)),
                None => self.ring_here(EVERYTHING),
            };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = listen_for_ever(store, heard) => {}
        }
    }
}

/// Listens and reconnects until it is dropped; `heard(None)` means that something may have been missed.
async fn listen_for_ever(store: Store, heard: impl Fn(Option<&str>)) {
    let mut pauses = Pauses::default();
    loop {
        let result: Result<(), sqlx::Error> = async {
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .connect_lazy_with(store.connect_options().clone());
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            heard(None);
            pauses.reset();
            loop {
                match listener.try_recv().await? {
                    Some(notification) => heard(Some(notification.payload())),
                    None => heard(None),
                }
            }
        }
        .await;
        if let Err(error) = result {
            tracing::debug!(%error, "the listening connection is gone");
        }
        tokio::time::sleep(pauses.next()).await;
    }
}

/// Hears that something changed somewhere. Each clone hears every change once.
#[derive(Clone, Debug)]
pub struct Changes {
    rings: watch::Receiver<u64>,
    /// Ends the listening connection when the last clone is gone.
    _listening: Option<Arc<tokio_util::sync::DropGuard>>,
}

impl Changes {
    /// Listens without an engine (web, command line). Reconnects by itself, and says "look" after it did.
    ///
    /// # Errors
    /// Postgres cannot be reached now.
    pub async fn listen(store: &Store) -> Result<Self, Error> {
        store.ping().await?;
        let sender = watch::Sender::new(0_u64);
        let rings = sender.subscribe();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let store = store.clone();
        tokio::spawn(async move {
            let heard =
                |_: Option<&str>| sender.send_modify(|rings| *rings = rings.wrapping_add(1));
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                () = listen_for_ever(store, heard) => {}
            }
        });
        Ok(Self {
            rings,
            _listening: Some(Arc::new(stop.drop_guard())),
        })
    }

    /// Waits for the next change. Several changes since the last call are one.
    pub async fn next(&mut self) {
        if self.rings.changed().await.is_err() {
            // The engine has stopped; nothing changes any more as far as it can tell.
            std::future::pending::<()>().await;
        }
    }
}

/// Rings every process, from one that has no engine: a NOTIFY outside of any transaction.
///
/// # Errors
/// Postgres cannot be reached; whoever should have heard looks again with its next heartbeat.
pub async fn ring(store: &Store) -> Result<(), Error> {
    store.notify(&format!("- {EVERYTHING}")).await
}
