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
    /// When this process last had no lease that it could trust. What ran then may have been ended for that reason alone.
    doubted: Option<Instant>,
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
    Ok(Lease::granted(worker_id, asked, options, None))
}

impl Lease {
    /// The lease as it was granted to a request of that moment. The last sixth of it is for stopping what runs: this
    /// process asks its tasks to end, and half-way through whoever hears of the lease ends what is left of them.
    fn granted(
        worker_id: WorkerId,
        asked: Instant,
        options: &Options,
        before: Option<Self>,
    ) -> Self {
        let lease = options.lease;
        options
            .on_lease
            .tell((asked + (lease - lease / 12)).into_std());
        Self {
            worker_id,
            trusted_until: asked + (lease - lease / 6),
            doubted: before.and_then(Self::doubted),
        }
    }

    /// Whether tasks may be started and run.
    pub(super) fn is_trusted(self) -> bool {
        self.trusted_until > Instant::now()
    }

    /// Whether it has been in doubt at some time since `began`.
    pub(super) fn was_doubted_since(self, began: Instant) -> bool {
        self.doubted().is_some_and(|doubted| doubted >= began)
    }

    fn doubted(self) -> Option<Instant> {
        if self.is_trusted() {
            self.doubted
        } else {
            Some(Instant::now())
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
                let question = self.outage.asking();
                match self.beat().await {
                    Ok(()) => {
                        question.answered();
                        if begins_to_stop {
                            // Nobody has to do anything, but pages show it.
                            self.bell.ring_for(Effects::default());
                        }
                        break;
                    }
                    Err(error) => {
                        metrics::STORE_ERRORS.inc();
                        question.failed(&error);
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
        match renewed {
            Some(renewed) => {
                self.lease.send_modify(|lease| {
                    *lease = Lease::granted(worker_id, asked, &self.options, Some(*lease));
                });
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lease_that_was_in_doubt_is_renewed_but_what_ran_then_is_still_known() {
        let options = Options {
            lease: Duration::from_secs(12),
            ..Options::default()
        };
        let worker = WorkerId(1);
        let now = Instant::now();
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        let good = Lease::granted(worker, ago(9), &options, None);
        assert!(good.is_trusted() && !good.was_doubted_since(ago(100)));
        let over = Lease::granted(worker, ago(11), &options, None);
        assert!(!over.is_trusted() && over.was_doubted_since(now));
        let renewed = Lease::granted(worker, now, &options, Some(over));
        assert!(renewed.is_trusted() && renewed.was_doubted_since(ago(5)));
        let again = Lease::granted(worker, Instant::now(), &options, Some(renewed));
        assert!(again.was_doubted_since(ago(5)), "it is remembered");
        assert!(!again.was_doubted_since(Instant::now() + Duration::from_secs(1)));
    }
}
