//! The scheduler: makes the runs whose tick has come, wakes sleepers, reaps lost workers. One timer to the next
//! deadline; any number of processes do the same, and none leads.

use std::{sync::Arc, time::Duration};

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
}

impl Scheduler {
    /// Runs until the process stops.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut deadline = self.bell.on_deadline();
        let mut shift = self.clock.shift();
        let mut pauses = Pauses::default();
        loop {
            deadline.arm();
            shift.mark_unchanged();
            let wait = match self.pass().await {
                Ok(wait) => {
                    self.outage.is_over();
                    pauses.reset();
                    wait
                }
                Err(error) => {
                    metrics::STORE_ERRORS.inc();
                    self.outage.began(&error);
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
            }
        }
    }

    /// Does what is due and says how long nothing will be.
    async fn pass(&self) -> Result<Option<Duration>, store::Error> {
        for _ in 0..PASSES {
            let shift = *self.clock.shift().borrow();
            match self.store.next_deadline(shift).await? {
                Some(wait) if wait.is_zero() => {}
                wait => return Ok(wait),
            }
            let scheduled = self.store.schedule_due(shift).await?;
            let woken = self.store.wake(shift).await?;
            let reaped = self.store.reap().await?;
            let effects = scheduled.and(woken).and(reaped.effects);
            if effects == Effects::default() {
                return Ok(Some(CONTENDED));
            }
            self.bell.ring_for(effects);
        }
        Ok(Some(Duration::ZERO))
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
