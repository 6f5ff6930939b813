//! How long to wait before trying again: doubling, with jitter, never above four seconds.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(4);

/// A growing wait. Jitter keeps many clients of one recovered server from returning in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    attempt: u32,
    random: RandomState,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self {
            attempt: 0,
            random: RandomState::new(),
        }
    }

    /// Returns the next wait: between half and all of the doubled step.
    pub(crate) fn next(&mut self) -> Duration {
        let step = FIRST.saturating_mul(1 << self.attempt.min(10)).min(LONGEST);
        self.attempt = self.attempt.saturating_add(1);
        let share = u32::try_from(self.random.hash_one(self.attempt) % 1000).expect("below 1000");
        step / 2 + step / 2 * share / 1000
    }

    /// Starts small again, after a success.
    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_never_pass_four_seconds() {
        let mut backoff = Backoff::new();
        let waits: Vec<_> = (0..40).map(|_| backoff.next()).collect();
        assert!(waits[0] <= FIRST && waits[0] >= FIRST / 2);
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
        assert!(waits[30] >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
