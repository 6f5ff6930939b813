//! The scheduler: makes the runs whose tick has come, wakes sleepers, ends what took too long, reaps lost workers. One timer to the next
//! deadline; any number of processes do the same, and none leads.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Clock,
    bell::Bell,
    courier::Dispatch,
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
    pub(super) dispatch: Arc<Dispatch>,
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
        let mut announced = false;
        loop {
            deadline.arm();
            shift.mark_unchanged();
            let question = self.outage.asking();
            let passed = match announced {
                true => self.pass(leases).await,
                false => match self.dispatch.announce().await {
                    Ok(()) => {
                        announced = true;
                        self.pass(leases).await
                    }
                    Err(error) => Err(error),
                },
            };
            let wait = match passed {
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
                () = stop.cancelled() => return self.dispatch.close().await,
                () = deadline.rung() => {}
                Ok(()) = shift.changed() => {}
                () = sleep(wait) => {}
                () = lease_end(&mut next_lease_end, &mut looked_at) => leases = Leases::MayBeOver,
            }
        }
    }

    /// Does what is due and says how long nothing will be.
    async fn pass(&self, leases: Leases) -> Result<Option<Duration>, store::Error> {
        // What Postgres refuses once keeps nothing else from its turn; it is told at the end, and tried again.
        let mut refused = None;
        if leases == Leases::MayBeOver {
            let reaped = self.store.reap().await.map(|reaped| reaped.effects);
            let effects = unless_refused(reaped, &mut refused)?;
            if effects != Effects::default() {
                self.bell.ring_for(effects);
            }
        }
        for _ in 0..PASSES {
            let shift = *self.clock.shift().borrow();
            let due = self.store.next_deadline(shift).await?;
            // Without room a message waits until one that is underway has ended, which rings.
            let messages = due.messages.filter(|_| self.dispatch.room() > 0);
            let next = [due.work, due.alerts, messages].into_iter().flatten().min();
            if next.is_none_or(|wait| !wait.is_zero()) {
                return refused.map_or(Ok(next), Err);
            }
            let mut moved = false;
            if is_due(due.work) {
                let store = &self.store;
                let mut done = |step| unless_refused(step, &mut refused);
                let effects = done(store.schedule_due(shift).await)?
                    .and(done(store.wake(shift).await)?)
                    .and(done(store.take_nudges().await)?)
                    .and(done(store.go_on_with_backfills().await)?)
                    .and(done(store.time_out(shift).await)?);
                if effects != Effects::default() {
                    moved = true;
                    self.bell.ring_for(effects);
                }
            }
            if is_due(due.alerts) {
                let struck = self.store.strike(shift).await?;
                let gathered = self.store.gather(shift).await?;
                if struck || gathered {
                    moved = true;
                    // Pages show what is missed and what is on its way.
                    self.bell.ring_for(Effects::default());
                }
            }
            if is_due(messages) {
                moved |= self.dispatch.send_due().await?;
            }
            if !moved {
                return refused.map_or(Ok(Some(CONTENDED)), Err);
            }
        }
        refused.map_or(Ok(Some(Duration::ZERO)), Err)
    }
}

/// What a step did; nothing where Postgres refused it, which is kept. That Postgres is away concerns every other step as well.
fn unless_refused(
    step: Result<Effects, store::Error>,
    refused: &mut Option<store::Error>,
) -> Result<Effects, store::Error> {
    match step {
        Err(error) if !error.is_unavailable() => {
            tracing::error!(%error, "Postgres refused a step of the scheduler; the others go on");
            refused.get_or_insert(error);
            Ok(Effects::default())
        }
        answered => answered,
    }
}

fn is_due(wait: Option<Duration>) -> bool {
    wait.is_some_and(|wait| wait.is_zero())
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
