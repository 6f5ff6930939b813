//! Jitter: many DAGs that share a tick begin one after the other, and each of them at the same distance every time it is
//! asked.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

/// How far a tick may be put off, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jitter<'a> {
    /// Whoever has another name is put off by another time.
    pub name: &'a str,
    /// At most so long, in whole seconds.
    pub most: Duration,
}

impl Jitter<'_> {
    /// When `tick` fires: at most [`Jitter::most`] later, and before `next`. The same for the same name and tick, on every
    /// machine and in every version.
    pub fn fires_at(&self, tick: DateTime<Utc>, next: Option<DateTime<Utc>>) -> DateTime<Utc> {
        // One second before the next tick at the latest, so that no two ticks change places or meet.
        let room = next.map_or(i64::MAX, |next| (next - tick).num_seconds() - 1);
        let most = i64::try_from(self.most.as_secs()).unwrap_or(i64::MAX - 1);
        let Ok(choices) = u64::try_from(most.min(room).max(0) + 1) else {
            return tick;
        };
        let mut hash = Sha256::new();
        hash.update(self.name.as_bytes());
        hash.update(tick.timestamp().to_be_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize()[..8]);
        let later = i64::try_from(u64::from_be_bytes(first) % choices).unwrap_or(0);
        tick.checked_add_signed(TimeDelta::try_seconds(later).unwrap_or_default())
            .unwrap_or(tick)
    }
}
