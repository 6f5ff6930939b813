//! The lease of this process: opened at the start, renewed by the database's clock, trusted by this machine's own
//! monotonic clock only, and opened anew when it was lost.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    Clock, Options, Roles,
    bell::Bell,
    load::Meter,
    outage::{Outage, Pauses},
    worker::Stopping,
};
use crate::{
    metrics,
    model::{InstanceId, WorkerId},
    store::{self, Course, Effects, Heartbeat, Report, Store},
};

/// The lease as this process may rely on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    /// What the database knows it by.
    pub(super) worker_id: WorkerId,
    /// Until then by this machine's monotonic clock; counted from before the renewal was sent, with a margin.
    pub(super) trusted_until: Instant,
}

/// What runs here now, by task instance and claim.
#[derive(Debug, Clone, Default)]
pub(super) struct Running {
    inner: Arc<Mutex<HashMap<InstanceId, i32>>>,
}

impl Running {
    pub(super) fn insert(&self, instance: InstanceId, epoch: i32) {
        self.lock().insert(instance, epoch);
    }

    pub(super) fn remove(&self, instance: InstanceId) {
        self.lock().remove(&instance);
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn snapshot(&self) -> Vec<(InstanceId, i32)> {
        self.lock()
            .iter()
            .map(|(instance, epoch)| (*instance, *epoch))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceId, i32>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the lease of a process.
pub(super) struct Keeper {
    pub(super) store: Store,
    pub(super) bell: Bell,
    pub(super) outage: Outage,
    pub(super) options: Options,
    pub(super) roles: Roles,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) running: Running,
    pub(super) lease: watch::Sender<Lease>,
    /// When the next lease of another process ends, unless it is renewed before.
    pub(super) next_lease_end: watch::Sender<Option<Instant>>,
    /// Executions that are not this process's any more.
    pub(super) taken_away: mpsc::UnboundedSender<(InstanceId, i32)>,
    /// Told to people as soon as it begins.
    pub(super) stopping: Stopping,
    pub(super) meter: Meter,
}

/// Opens a lease.
pub(super) async fn open(
    store: &Store,
    options: &Options,
    roles: Roles,
) -> Result<Lease, store::Error> {
    let asked = Instant::now();
    let worker_id = store
        .register(Heartbeat {
            name: &options.name,
            version: env!("CARGO_PKG_VERSION"),
            queues: &options.queues,
            labels: &options.labels,
            slots: if roles.works() { options.slots } else { 0 },
            schedules: roles.schedules(),
            lease: options.lease,
        })
        .await?;
    Ok(Lease::granted(worker_id, asked, options))
}

impl Lease {
    /// The lease as it was granted to a request of that moment. The last sixth of it is for stopping what runs: this
    /// process asks its tasks to end, and half-way through whoever hears of the lease ends what is left of them.
    fn granted(worker_id: WorkerId, asked: Instant, options: &Options) -> Self {
        let lease = options.lease;
        options
            .on_lease
            .tell((asked + (lease - lease / 12)).into_std());
        Self {
            worker_id,
            trusted_until: asked + (lease - lease / 6),
        }
    }
}

impl Keeper {
    /// Renews the lease until the process stops.
    pub(super) async fn keep(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.options.heartbeat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The lease has just been opened.
        ticks.tick().await;
        let mut cancelled = self.bell.on_cancelled();
        let mut pauses = Pauses::default();
        let mut stopping = false;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.stopping.begins.cancelled(), if !stopping => {}
                // Whoever rings so has steered something. Also a process that runs nothing must know: a pool may have
                // its first limit.
                () = cancelled.rung() => {}
                _ = ticks.tick() => {}
            }
            let begins_to_stop = !stopping && self.stopping.begins.is_cancelled();
            stopping |= begins_to_stop;
            loop {
                cancelled.arm();
                match self.beat().await {
                    Ok(()) => {
                        if begins_to_stop {
                            // Nobody has to do anything, but pages show it.
                            self.bell.ring_for(Effects::default());
                        }
                        break;
                    }
                    Err(error) => {
                        metrics::STORE_ERRORS.inc();
                        self.outage.began(&error);
                        if !error.is_unavailable() {
                            tracing::error!(%error, "the lease could not be renewed");
                        }
                    }
                }
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pauses.next()) => {}
                }
            }
            pauses.reset();
        }
    }

    async fn beat(&self) -> Result<(), store::Error> {
        let worker_id = self.lease.borrow().worker_id;
        let running = self.running.snapshot();
        let report = Report {
            load: self.meter.measure(),
            course: if self.stopping.begins.is_cancelled() {
                Course::Stops
            } else {
                Course::GoesOn
            },
        };
        let asked = Instant::now();
        let renewed = self
            .store
            .renew_with(worker_id, self.options.lease, &running, report)
            .await?;
        self.outage.is_over();
        match renewed {
            Some(renewed) => {
                self.lease
                    .send_replace(Lease::granted(worker_id, asked, &self.options));
                self.next_lease_end.send_replace(
                    renewed
                        .next_lease_end
                        .and_then(|wait| Instant::now().checked_add(wait)),
                );
                for (instance, epoch) in running {
                    if renewed.lost.contains(&instance) {
                        // The worker may have stopped; then nothing runs that could be taken away.
                        let _stopped = self.taken_away.send((instance, epoch));
                    }
                }
                if renewed.work_is_waiting {
                    self.bell.look_for_work();
                }
            }
            None => {
                tracing::warn!(
                    worker_id = worker_id.0,
                    "the lease of this process had ended; its tasks run elsewhere"
                );
                self.lease
                    .send_replace(open(&self.store, &self.options, self.roles).await?);
            }
        }
        if self.roles.schedules() {
            let shift = *self.clock.shift().borrow();
            self.store.extend_watch(self.options.lease, shift).await?;
        }
        Ok(())
    }
}
