//! How far a reader looks: everything, or what a run could see when its data interval had ended.

use chrono::{DateTime, Utc};

use crate::Instance;

/// Which partitions a reader takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Horizon {
    /// Every partition there is.
    Everything,
    /// Those that belong to a run or to the time before it. The same run sees the same partitions whenever it runs, so that a
    /// backfill answers as the run would have answered then.
    Run {
        /// The run's logical date: landings of this very date are seen, also when the run has an interval without length.
        logical_date: DateTime<Utc>,
        /// The end of its data interval: landings of later dates, and of this one, come after the run.
        data_interval_end: DateTime<Utc>,
    },
}

impl Horizon {
    /// The horizon of a run.
    pub fn of(instance: &Instance) -> Self {
        Self::Run {
            logical_date: instance.logical_date,
            data_interval_end: instance.data_interval_end,
        }
    }

    /// Whether it takes the partition whose landing has this logical date.
    pub fn holds(self, landed: DateTime<Utc>) -> bool {
        match self {
            Self::Everything => true,
            Self::Run {
                logical_date,
                data_interval_end,
            } => landed < data_interval_end || landed <= logical_date,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn day(day: u32) -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 1, day, 2, 0, 0)
            .single()
            .expect("a date")
    }

    #[test]
    fn a_run_sees_its_own_landing_and_those_before_it() {
        let run = Horizon::Run {
            logical_date: day(2),
            data_interval_end: day(3),
        };
        assert!(run.holds(day(1)) && run.holds(day(2)));
        assert!(!run.holds(day(3)), "the next run's landing");
        let by_hand = Horizon::Run {
            logical_date: day(2),
            data_interval_end: day(2),
        };
        assert!(by_hand.holds(day(2)) && !by_hand.holds(day(3)));
        assert!(Horizon::Everything.holds(day(3)));
    }
}
