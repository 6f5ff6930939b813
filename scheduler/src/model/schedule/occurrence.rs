//! One tick as people see it: the instant, the local time, and a mark where the zone's clock changes around it.

use std::fmt;

use chrono::{DateTime, NaiveDateTime, TimeZone, Utc, offset::LocalResult};
use chrono_tz::Tz;

use super::{
    Meaning, Schedule,
    local::{self, Cron, Follows},
};

/// One tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    /// The instant.
    pub at: DateTime<Utc>,
    /// The same instant on the clock of the schedule's zone.
    pub local: DateTime<Tz>,
    /// Set where a change of the zone's clock matters.
    pub mark: Option<DstMark>,
}

/// What a change of the zone's clock does to a tick. It is displayed as a sentence for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DstMark {
    /// The time named by the schedule is skipped on that day.
    Gap {
        /// The time that does not exist.
        missing: NaiveDateTime,
        /// The local time at which it runs.
        runs: NaiveDateTime,
    },
    /// The time named by the schedule comes twice on that day; this is the first.
    Fold {
        /// The time that comes twice.
        repeated: NaiveDateTime,
    },
    /// The clock has changed since the tick before this one, and the schedule followed real time through it.
    Shift {
        /// Seconds by which the clock moved, positive when it went forward.
        seconds: i64,
    },
}

/// Beyond this a change of the clock between two ticks means nothing to anybody.
const SHIFT_MATTERS_SECONDS: i64 = 49 * 3600;

impl fmt::Display for DstMark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { missing, runs } => write!(
                formatter,
                "{} does not exist on this day, runs at {}",
                missing.format(clock(*missing)),
                runs.format(clock(*runs)),
            ),
            Self::Fold { repeated } => {
                write!(
                    formatter,
                    "{} comes twice, runs the first time",
                    repeated.format(clock(*repeated))
                )
            }
            Self::Shift { seconds } => {
                let direction = if *seconds > 0 { "forward" } else { "back" };
                let moved = std::time::Duration::from_secs(seconds.unsigned_abs());
                write!(
                    formatter,
                    "the clock went {direction} by {} before this run",
                    pinwheel_tasks::duration::text(moved)
                )
            }
        }
    }
}

/// Shows a tick of `schedule`.
pub(super) fn at(schedule: &Schedule, at: DateTime<Utc>) -> Occurrence {
    Occurrence {
        at,
        local: at.with_timezone(&schedule.zone()),
        mark: mark(schedule, at),
    }
}

fn mark(schedule: &Schedule, at: DateTime<Utc>) -> Option<DstMark> {
    match &schedule.meaning {
        Meaning::Every(_) | Meaning::At(_) => None,
        Meaning::Cron(cron) => match cron.follows() {
            Follows::RealTime => shift(cron, at),
            Follows::FixedTimes => gap(cron, at).or_else(|| fold(cron, at)),
        },
        Meaning::AnyOf(schedules) => schedules
            .iter()
            .filter(|schedule| {
                schedule.previous_before(at + chrono::TimeDelta::seconds(1)) == Some(at)
            })
            .find_map(|schedule| mark(schedule, at)),
    }
}

fn shift(cron: &Cron, at: DateTime<Utc>) -> Option<DstMark> {
    let previous = cron.previous_before(at)?.timestamp();
    let at = at.timestamp();
    let seconds = local::offset(cron.zone(), at) - local::offset(cron.zone(), previous);
    (seconds != 0 && at - previous <= SHIFT_MATTERS_SECONDS).then_some(DstMark::Shift { seconds })
}

fn gap(cron: &Cron, at: DateTime<Utc>) -> Option<DstMark> {
    let at = at.timestamp();
    let gap_begins = at + local::offset(cron.zone(), at - 1);
    let gap_ends = at + local::offset(cron.zone(), at);
    let missing = cron.wall().next_after(gap_begins - 1)?;
    (missing < gap_ends).then(|| DstMark::Gap {
        missing: local::naive(missing),
        runs: local::naive(gap_ends),
    })
}

fn fold(cron: &Cron, at: DateTime<Utc>) -> Option<DstMark> {
    let repeated = at.with_timezone(&cron.zone()).naive_local();
    match cron.zone().from_local_datetime(&repeated) {
        LocalResult::Ambiguous(..) => Some(DstMark::Fold { repeated }),
        LocalResult::Single(_) | LocalResult::None => None,
    }
}

fn clock(time: NaiveDateTime) -> &'static str {
    if time.and_utc().timestamp() % 60 == 0 {
        "%H:%M"
    } else {
        "%H:%M:%S"
    }
}
