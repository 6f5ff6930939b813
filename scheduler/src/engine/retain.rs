//! Retention: once in a while a scheduler removes what is old, a little at a time. Any number of processes do the same,
//! and none leads.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{Clock, bell::Bell, outage::Outage};
use crate::{
    metrics,
    store::{self, Effects, Prune, Removed, Retention, Store},
};

/// The shortest pause between two steps of a pass. A longer step is followed by as long a pause, so that at most half of
/// the time belongs to what nobody waits for.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Retainer {
    pub(super) store: Store,
    pub(super) bell: Bell,
    pub(super) outage: Outage,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) retention: Retention,
    /// How often a pass is made.
    pub(super) period: Duration,
}

impl Retainer {
    /// Runs until the process stops. The first pass is made at a random time within the first period, so that processes
    /// that were started together do not all begin at once, and a process that has just started has better things to do.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut shift = self.clock.shift();
        let mut wait = between(self.period / 12, self.period);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = shift.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
            let began = Instant::now();
            let question = self.outage.asking();
            let passed = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                passed = self.pass() => passed,
            };
            wait = match passed {
                Ok(removed) => {
                    question.answered();
                    self.tell(&removed, began.elapsed());
                    between(
                        self.period - self.period / 12,
                        self.period + self.period / 12,
                    )
                }
                Err(error) => {
                    metrics::STORE_ERRORS.inc();
                    question.failed(&error);
                    if !error.is_unavailable() {
                        tracing::error!(%error, "what is old could not be removed; it is tried again");
                    }
                    between(self.period / 24, self.period / 12)
                }
            };
        }
    }

    async fn pass(&self) -> Result<Removed, store::Error> {
        let shift = *self.clock.shift().borrow();
        let mut pass = self
            .store
            .begin_pass(self.retention, Prune::Remove, shift)
            .await?;
        let mut total = Removed::default();
        loop {
            let began = Instant::now();
            let Some(removed) = pass.step().await? else {
                return Ok(total);
            };
            metrics::count_removed(&removed);
            total += removed;
            tokio::time::sleep(PAUSE.max(began.elapsed())).await;
        }
    }

    fn tell(&self, removed: &Removed, took: Duration) {
        if removed.rows() == 0 {
            return;
        }
        tracing::info!(
            runs = removed.runs,
            rows = removed.rows(),
            took_ms = took.as_millis(),
            "removed {} old runs, {} rows in all",
            removed.runs,
            removed.rows()
        );
        // Lists have become shorter.
        self.bell.ring_for(Effects::default());
    }
}

/// A random time between two.
fn between(from: Duration, to: Duration) -> Duration {
    let chance = RandomState::new().hash_one(()) as u32;
    from + to
        .saturating_sub(from)
        .mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_time_lies_between_the_two() {
        let (from, to) = (Duration::from_secs(5), Duration::from_secs(60));
        let times: Vec<Duration> = (0..200).map(|_| between(from, to)).collect();
        assert!(times.iter().all(|time| (from..=to).contains(time)));
        assert!(times.iter().any(|time| *time != times[0]));
        assert_eq!(between(to, from), to);
    }
}
