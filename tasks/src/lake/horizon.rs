//! How far a reader looks: everything, or what a run could see when it was its time to run.

use chrono::{DateTime, Utc};

use crate::Instance;

/// Which partitions a reader takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Horizon {
    /// Every partition there is.
    Everything,
    /// Those whose landing could have run by the time that the run could. The run sees the same partitions whenever it really
    /// runs, so that a backfill answers as the run would have answered then.
    Run {
        /// The run's logical date.
        logical_date: DateTime<Utc>,
        /// The end of its data interval, exclusive.
        data_interval_end: DateTime<Utc>,
        /// The moment from which it may run.
        run_after: DateTime<Utc>,
    },
}

impl Horizon {
    /// The horizon of a run.
    pub fn of(instance: &Instance) -> Self {
        Self::Run {
            logical_date: instance.logical_date,
            data_interval_end: instance.data_interval_end,
            run_after: instance.run_after(),
        }
    }

    /// Whether it takes a partition, by the logical date of its landing and the moment from which that could run. Where the moment
    /// is not known the logical date must lie in the run's data interval or before it.
    pub fn holds(self, landed: DateTime<Utc>, landed_after: Option<DateTime<Utc>>) -> bool {
        match (self, landed_after) {
            (Self::Everything, _) => true,
            (Self::Run { run_after, .. }, Some(landed_after)) => landed_after <= run_after,
            (
                Self::Run {
                    logical_date,
                    data_interval_end,
                    ..
                },
                None,
            ) => landed < data_interval_end || landed <= logical_date,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{TimeDelta, TimeZone};
    use serde_json::Map;

    use super::*;

    fn day(day: u32) -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 1, day, 2, 0, 0)
            .single()
            .expect("a date")
    }

    fn run(logical_date: DateTime<Utc>, data_interval_end: DateTime<Utc>) -> Horizon {
        Horizon::of(&Instance {
            dag_id: "reports".to_owned(),
            run_id: 1,
            task_id: "report".to_owned(),
            instance_id: 1,
            try_number: 1,
            logical_date,
            data_interval_start: logical_date,
            data_interval_end,
            params: Map::new(),
        })
    }

    #[test]
    fn a_run_sees_its_own_landing_and_those_before_it() {
        let daily = run(day(2), day(3));
        assert!(daily.holds(day(1), Some(day(2))) && daily.holds(day(2), Some(day(3))));
        assert!(!daily.holds(day(3), Some(day(4))), "the next run's landing");
        assert!(daily.holds(day(2), None) && !daily.holds(day(3), None));
        let by_hand = run(day(2), day(2));
        assert!(by_hand.holds(day(2), Some(day(2))) && by_hand.holds(day(2), None));
        assert!(!by_hand.holds(day(3), None));
        assert!(Horizon::Everything.holds(day(3), Some(day(4))));
    }

    #[test]
    fn a_run_of_another_schedule_does_not_see_what_is_landed_after_it() {
        let later = TimeDelta::hours(2);
        let report = run(day(1) + later, day(2) + later);
        assert!(report.holds(day(1), Some(day(2))));
        assert!(
            !report.holds(day(2), Some(day(3))),
            "its date lies in the interval, but it is landed a day later"
        );
    }

    #[test]
    fn a_landing_by_hand_is_seen_from_its_own_date_on() {
        // Its data interval is the last whole one of the schedule, which ended before it was triggered.
        let noon = day(2) + TimeDelta::hours(10);
        assert!(!run(day(1), day(2)).holds(noon, Some(noon)));
        assert!(run(day(2), day(3)).holds(noon, Some(noon)));
    }
}
