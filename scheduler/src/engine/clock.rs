//! Time. In SQL it is the database's, so skew between machines changes nothing; a test travels by shifting it.

use chrono::TimeDelta;
use tokio::sync::watch;

/// How far the engine's idea of now is ahead of the database's. Zero outside tests.
pub trait Clock: Send + Sync + 'static {
    /// The shift, and a way to hear that it has changed.
    fn shift(&self) -> watch::Receiver<TimeDelta>;
}

/// The database's own time.
#[derive(Debug)]
pub struct SystemClock {
    shift: watch::Sender<TimeDelta>,
}

impl SystemClock {
    /// The clock of every real process.
    pub fn new() -> Self {
        Self {
            shift: watch::Sender::new(TimeDelta::zero()),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn shift(&self) -> watch::Receiver<TimeDelta> {
        self.shift.subscribe()
    }
}

/// A clock that a test moves forward.
#[derive(Debug, Default)]
pub struct ShiftedClock {
    shift: watch::Sender<TimeDelta>,
}

impl ShiftedClock {
    /// Travels forward by `step`; whatever becomes due happens at once.
    pub fn advance(&self, step: TimeDelta) {
        self.shift.send_modify(|shift| *shift += step);
    }
}

impl Clock for ShiftedClock {
    fn shift(&self) -> watch::Receiver<TimeDelta> {
        self.shift.subscribe()
    }
}
