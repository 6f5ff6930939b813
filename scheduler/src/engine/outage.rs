//! What a process does while Postgres is away: it says so once, waits with growing pauses, and says once that it is back.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::store::{self, Store};

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Whether Postgres is away, as far as this process knows. Shared by its loops.
#[derive(Debug, Clone)]
pub(super) struct Outage {
    store: Store,
    known: Arc<Mutex<Known>>,
}

/// Loops hear of an outage one after the other: answers that were on their way come after the first error, and errors of
/// the same outage after the first answer. So what counts is when the question was asked.
#[derive(Debug, Default)]
struct Known {
    away: bool,
    /// When the latest error was heard of.
    failed: Option<Instant>,
    /// When the latest question was asked that has its answer.
    answered: Option<Instant>,
}

/// A question that Postgres was asked.
#[derive(Debug)]
#[must_use = "what became of it says whether Postgres is there"]
pub(super) struct Question {
    outage: Outage,
    asked: Instant,
}

impl Outage {
    pub(super) fn of(store: &Store) -> Self {
        Self {
            store: store.clone(),
            known: Arc::default(),
        }
    }

    /// To be called before Postgres is asked.
    pub(super) fn asking(&self) -> Question {
        Question {
            outage: self.clone(),
            asked: Instant::now(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question {
    /// Notes an error. Only the first of an outage is logged.
    pub(super) fn failed(self, error: &store::Error) {
        if !error.is_away() {
            return;
        }
        self.outage.store.distrust_open_connections();
        if self.outage.known().failed(self.asked, Instant::now()) {
            tracing::error!(%error, "Postgres is away; waiting for it");
        }
    }

    /// Notes that it was answered.
    pub(super) fn answered(self) {
        if self.outage.known().answered(self.asked) {
            tracing::info!("Postgres is back");
        }
    }
}

impl Known {
    /// Whether this is news: an error of a question that is older than one with an answer belongs to an outage that is
    /// over.
    fn failed(&mut self, asked: Instant, now: Instant) -> bool {
        let is_old = self.answered.is_some_and(|answered| asked < answered);
        if !self.away && is_old {
            return false;
        }
        self.failed = Some(now);
        !std::mem::replace(&mut self.away, true)
    }

    /// Whether this is news: an answer to what was asked before the latest error says nothing of now.
    fn answered(&mut self, asked: Instant) -> bool {
        self.answered = self.answered.max(Some(asked));
        let is_new = self.failed.is_none_or(|failed| asked > failed);
        is_new && std::mem::take(&mut self.away)
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
    fn an_outage_begins_and_ends_once_whatever_order_it_is_heard_of() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut known = Known::default();
        assert!(!known.answered(at(0)));
        assert!(known.failed(at(1), at(10)), "the first error is news");
        assert!(!known.failed(at(2), at(11)));
        assert!(!known.answered(at(9)), "it was asked before the error");
        assert!(!known.answered(at(11)));
        assert!(known.answered(at(12)), "an answer that is newer");
        assert!(!known.failed(at(3), at(13)), "still the same outage");
        assert!(!known.answered(at(14)));
        assert!(known.failed(at(15), at(16)), "another one");
    }

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
