//! What a process does while Postgres is away: it says so once, waits with growing pauses, and says once that it is back.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::store::{self, Store};

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Whether Postgres is away, as far as this process knows. Shared by its loops.
#[derive(Debug, Clone)]
pub(super) struct Outage {
    store: Store,
    away: Arc<AtomicBool>,
}

impl Outage {
    pub(super) fn of(store: &Store) -> Self {
        Self {
            store: store.clone(),
            away: Arc::default(),
        }
    }

    /// Notes an error. Only the first of an outage is logged.
    pub(super) fn began(&self, error: &store::Error) {
        if !error.is_away() {
            return;
        }
        self.store.distrust_open_connections();
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "Postgres is away; waiting for it");
        }
    }

    /// Notes that a statement got its answer.
    pub(super) fn is_over(&self) {
        if self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("Postgres is back");
        }
    }
}

/// The pauses of one loop: 20 ms, doubling up to [`LONGEST_PAUSE`], each with half of it left to chance so that
/// processes do not come back in step.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    failures: u32,
}

impl Pauses {
    /// The pause after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let longest = Duration::from_millis(20)
            .saturating_mul(1 << self.failures.min(8))
            .min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        let chance = RandomState::new().hash_one(self.failures) as u32;
        longest / 2 + longest.mul_f64(f64::from(chance) / f64::from(u32::MAX)) / 2
    }

    /// Starts from the shortest pause again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_four_seconds_and_no_further() {
        let mut pauses = Pauses::default();
        assert!(pauses.next() <= Duration::from_millis(20));
        let last = (0..40).map(|_| pauses.next()).last().unwrap();
        assert!(
            last >= LONGEST_PAUSE / 2 && last <= LONGEST_PAUSE,
            "{last:?}"
        );
    }
}
