//! Which runs are due: from the ticks of a schedule to the data intervals for which runs must be made now.
//!
//! A tick at T closes the data interval from the tick before it until T; the run's logical date is the start of
//! that interval, and it is made at T.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::Schedule;
use crate::model::Catchup;

/// The stretch of time that a scheduled run works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DataInterval {
    /// Inclusive. It is also the run's logical date.
    pub start: DateTime<Utc>,
    /// Exclusive. The run is made at this instant.
    pub end: DateTime<Utc>,
}

impl DataInterval {
    /// The run's logical date.
    pub fn logical_date(&self) -> DateTime<Utc> {
        self.start
    }

    /// When the run is made.
    pub fn fires_at(&self) -> DateTime<Utc> {
        self.end
    }
}

/// What is known about the past of a DAG's schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// The DAG's `start`: no logical date before it.
    pub start: Option<DateTime<Utc>>,
    /// What becomes of ticks that passed unwatched.
    pub catchup: Catchup,
    /// The last logical date for which the schedule has made a run. No run is made for it again, nor for an earlier one.
    pub last_logical_date: Option<DateTime<Utc>>,
    /// Ticks until this instant are never made up for, whatever `catchup` says: the moment the present schedule was
    /// first seen (an edited schedule does not fire for the past), or [`first_since`] for a DAG that is new.
    pub since: DateTime<Utc>,
    /// Ticks until this instant passed unwatched, and `catchup` decides about them: the latest of the moments at which
    /// the scheduler began to watch and the DAG was unpaused. Later ticks are made even if the pass comes late.
    pub watched_since: DateTime<Utc>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Make a run for each of them, in this order.
    pub intervals: Vec<DataInterval>,
    /// The one after them. When it [fires](DataInterval::fires_at) at or before now, the limit was reached: plan again.
    pub next: Option<DataInterval>,
}

/// The value of [`Past::since`] for a DAG that is seen for the first time: its `start` when the past is to be
/// made up for, and otherwise now.
pub fn first_since(
    start: Option<DateTime<Utc>>,
    catchup: Catchup,
    now: DateTime<Utc>,
) -> DateTime<Utc> {
    match (catchup, start) {
        (Catchup::Latest | Catchup::All, Some(start)) => start.min(now),
        (Catchup::None, _) | (Catchup::Latest | Catchup::All, None) => now,
    }
}

/// Plans the runs that are due at `now`, at most `limit` of them.
pub fn intervals_due(schedule: &Schedule, past: &Past, now: DateTime<Utc>, limit: usize) -> Due {
    let mut due = Due {
        intervals: Vec::new(),
        next: None,
    };
    let Some(lower) = lower_bound(schedule, past, now) else {
        return due;
    };
    // A schedule's very first tick closes nothing.
    let first = std::iter::successors(schedule.next_after(lower), |tick| {
        schedule.next_after(*tick)
    })
    .find_map(|tick| schedule.interval_closed_by(tick));
    let intervals = std::iter::successors(first, |interval| {
        Some(DataInterval {
            start: interval.end,
            end: schedule.next_after(interval.end)?,
        })
    });
    for interval in intervals {
        if interval.fires_at() > now || due.intervals.len() == limit {
            due.next = Some(interval);
            break;
        }
        due.intervals.push(interval);
    }
    due
}

/// Ticks that count are after this instant; `None` when there can be none.
fn lower_bound(schedule: &Schedule, past: &Past, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let moment = TimeDelta::nanoseconds(1);
    let mut lower = past.since;
    if let Some(start) = past.start {
        // The first interval begins at the first tick that is not before `start`.
        lower = lower.max(schedule.next_after(start - moment)?);
    }
    if let Some(last) = past.last_logical_date {
        lower = lower.max(schedule.next_after(last)?);
    }
    match past.catchup {
        Catchup::All => {}
        Catchup::None => lower = lower.max(past.watched_since.min(now)),
        Catchup::Latest => {
            let unwatched_until = past.watched_since.min(now);
            if let Some(latest) = schedule.previous_before(unwatched_until + moment) {
                lower = lower.max(latest - moment);
            }
        }
    }
    Some(lower)
}
