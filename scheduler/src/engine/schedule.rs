//! The scheduler: makes the runs whose tick has come, wakes sleepers, ends what took too long, reaps lost workers. One timer to the next
//! deadline; any number of processes do the same, and none leads.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Clock,
    bell::Bell,
    outage::{Outage, Pauses},
};
use crate::{
    metrics,
    store::{self, Effects, Store},
};

/// What is overdue and was not done is in another process's hands right now: look again after this.
const CONTENDED: Duration = Duration::from_millis(25);

/// A long backlog is worked off pass by pass, with a look at the stop signal after so many.
const PASSES: usize = 100;

pub(super) struct Scheduler {
    pub(super) store: Store,
    pub(super) bell: Bell,
    pub(super) outage: Outage,
    pub(super) clock: Arc<dyn Clock>,
    /// When the next lease of another process ends, as the heartbeat heard.
    pub(super) next_lease_end: watch::Receiver<Option<Instant>>,
}

/// Whether a pass looks for leases that are over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leases {
    MayBeOver,
    Hold,
}

impl Scheduler {
    /// Runs until the process stops.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut deadline = self.bell.on_deadline();
        let mut shift = self.clock.shift();
        let mut next_lease_end = self.next_lease_end.clone();
        let mut pauses = Pauses::default();
        // Somebody may have died before this process was born.
        let mut leases = Leases::MayBeOver;
        let mut looked_at = None;
        loop {
            deadline.arm();
            shift.mark_unchanged();
            let question = self.outage.asking();
            let wait = match self.pass(leases).await {
                Ok(wait) => {
                    question.answered();
                    pauses.reset();
                    leases = Leases::Hold;
                    wait
                }
                Err(error) => {
                    metrics::STORE_ERRORS.inc();
                    question.failed(&error);
                    if !error.is_unavailable() {
                        tracing::error!(%error, "a pass of the scheduler failed; it is tried again");
                    }
                    Some(pauses.next())
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = deadline.rung() => {}
                Ok(()) = shift.changed() => {}
                () = sleep(wait) => {}
                () = lease_end(&mut next_lease_end, &mut looked_at) => leases = Leases::MayBeOver,
            }
        }
    }

    /// Does what is due and says how long nothing will be.
    async fn pass(&self, leases: Leases) -> Result<Option<Duration>, store::Error> {
        if leases == Leases::MayBeOver {
            let reaped = self.store.reap().await?;
            if reaped.effects != Effects::default() {
                self.bell.ring_for(reaped.effects);
            }
        }
        for _ in 0..PASSES {
            let shift = *self.clock.shift().borrow();
            match self.store.next_deadline(shift).await? {
                Some(wait) if wait.is_zero() => {}
                wait => return Ok(wait),
            }
            let scheduled = self.store.schedule_due(shift).await?;
            let woken = self.store.wake(shift).await?;
            let timed_out = self.store.time_out(shift).await?;
            let effects = scheduled.and(woken).and(timed_out);
            if effects == Effects::default() {
                return Ok(Some(CONTENDED));
            }
            self.bell.ring_for(effects);
        }
        Ok(Some(Duration::ZERO))
    }
}

/// Waits until a lease ends that was not renewed meanwhile. Each end is looked at once; the heartbeat says the next.
async fn lease_end(next: &mut watch::Receiver<Option<Instant>>, looked_at: &mut Option<Instant>) {
    loop {
        let end = *next.borrow_and_update();
        tokio::select! {
            biased;
            changed = next.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
            () = sleep_until(end), if end != *looked_at => {
                *looked_at = end;
                return;
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
