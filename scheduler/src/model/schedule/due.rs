//! Which runs are due: from the ticks of a schedule to the data intervals for which runs must be made now.
//!
//! A tick at T closes the data interval from the tick before it until T; the run's logical date is the start of
//! that interval, and it is made at T, or with jitter a little later.

use std::{fmt, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{Jitter, Occurrence, Schedule};
use crate::model::Catchup;

/// The stretch of time that a scheduled run works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DataInterval {
    /// Inclusive. It is also the run's logical date.
    pub start: DateTime<Utc>,
    /// Exclusive: the tick.
    pub end: DateTime<Utc>,
}

impl DataInterval {
    /// The run's logical date.
    pub fn logical_date(&self) -> DateTime<Utc> {
        self.start
    }
}

/// The interval in words: `2026-01-01 02:00 to 2026-01-02 02:00 UTC (1d)`.
impl fmt::Display for DataInterval {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_seconds = [self.start, self.end]
            .iter()
            .any(|at| at.timestamp() % 60 != 0);
        let clock = if has_seconds {
            "%Y-%m-%d %H:%M:%S"
        } else {
            "%Y-%m-%d %H:%M"
        };
        let length = (self.end - self.start).to_std().unwrap_or_default();
        write!(
            formatter,
            "{} to {} UTC ({})",
            self.start.format(clock),
            self.end.format(clock),
            pinwheel_tasks::duration::text(Duration::from_secs(length.as_secs())),
        )
    }
}

/// When a DAG runs by itself: its schedule, and what its file says around it.
#[derive(Debug, Clone, Copy)]
pub struct Timetable<'a> {
    /// The ticks.
    pub schedule: &'a Schedule,
    /// No logical date before this.
    pub start: Option<DateTime<Utc>>,
    /// No logical date after this.
    pub end: Option<DateTime<Utc>>,
    /// What becomes of ticks that passed unwatched.
    pub catchup: Catchup,
    /// Ticks that passed unwatched longer ago are not made up for.
    pub catchup_window: Option<Duration>,
    /// Ticks fire later by so much.
    pub jitter: Option<Jitter<'a>>,
}

/// What is known about the past of a DAG's schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// The last tick about which it was decided: its run was made, or left out. It is never looked at again, nor is an
    /// earlier one, and what comes after it works on data from then on: so no data is worked on twice, nor left out, where
    /// a schedule was edited.
    pub last_tick: Option<DateTime<Utc>>,
    /// Ticks until this instant are never made up for, whatever `catchup` says: the moment the present schedule was
    /// first seen (an edited schedule does not fire for the past), or [`first_since`] for a DAG that is new.
    pub since: DateTime<Utc>,
    /// What should have fired until this instant passed unwatched, and `catchup` decides about it: the latest of the
    /// moments at which the scheduler began to watch and the DAG was unpaused. Later ticks are made even if the pass
    /// comes late.
    pub watched_since: DateTime<Utc>,
}

/// A run that will be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// What it works on.
    pub interval: DataInterval,
    /// When it is made.
    pub fires_at: DateTime<Utc>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Make a run for each of them, in this order.
    pub intervals: Vec<DataInterval>,
    /// The one after them. When it fires at or before now, the limit was reached: plan again.
    pub next: Option<Planned>,
    /// The last tick that is decided with this: [`Past::last_tick`] from now on.
    pub last_tick: Option<DateTime<Utc>>,
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

const MOMENT: TimeDelta = TimeDelta::nanoseconds(1);

impl<'a> Timetable<'a> {
    /// Plans the runs that are due at `now`, at most `limit` of them.
    pub fn due(&self, past: &Past, now: DateTime<Utc>, limit: usize) -> Due {
        let mut due = Due {
            intervals: Vec::new(),
            next: None,
            last_tick: past.last_tick,
        };
        for planned in self.after(self.lower_bound(past, now), past.last_tick) {
            if planned.fires_at > now || due.intervals.len() == limit {
                due.next = Some(planned);
                break;
            }
            due.intervals.push(planned.interval);
        }
        let decided = match (&due.next, due.intervals.last()) {
            (Some(next), _) => Some(next.interval.start),
            (None, last) => last.map(|interval| interval.end),
        };
        due.last_tick = due.last_tick.max(decided);
        due
    }

    /// The runs that are made after `from`, if somebody watches, with the local time of their ticks and a mark where a
    /// change of the zone's clock matters.
    pub fn upcoming(
        &self,
        past: &Past,
        from: DateTime<Utc>,
        count: usize,
    ) -> Vec<(Planned, Occurrence)> {
        let lower = self
            .last_fired(from)
            .max(past.last_tick)
            .map_or(past.since, |last| last.max(past.since));
        self.after(lower, past.last_tick)
            .filter(|planned| planned.fires_at > from)
            .take(count)
            .map(|planned| (planned, self.schedule.occurrence(planned.interval.end)))
            .collect()
    }

    /// When a tick fires.
    pub fn fires_at(&self, tick: DateTime<Utc>) -> DateTime<Utc> {
        self.jitter.map_or(tick, |jitter| {
            jitter.fires_at(tick, self.schedule.next_after(tick))
        })
    }

    /// The runs of ticks after an instant, within `start` and `end`.
    fn after(
        &self,
        lower: DateTime<Utc>,
        last_tick: Option<DateTime<Utc>>,
    ) -> impl Iterator<Item = Planned> + use<'a> {
        let timetable = *self;
        let Self {
            schedule,
            start,
            end,
            ..
        } = timetable;
        let lower = start.map_or(lower, |start| lower.max(start - MOMENT));
        let first = std::iter::successors(schedule.next_after(lower), |tick| {
            schedule.next_after(*tick)
        })
        // The very first tick of a cron expression closes nothing.
        .find_map(|tick| schedule.interval_closed_by(tick));
        std::iter::successors(first, move |interval| {
            Some(DataInterval {
                start: interval.end,
                end: schedule.next_after(interval.end)?,
            })
        })
        .map(move |interval| DataInterval {
            start: last_tick.map_or(interval.start, |last| interval.start.max(last)),
            ..interval
        })
        // The first whole interval after the start is the first one.
        .skip_while(move |interval| start.is_some_and(|start| interval.start < start))
        .take_while(move |interval| end.is_none_or(|end| interval.start <= end))
        .map(move |interval| Planned {
            interval,
            fires_at: timetable.fires_at(interval.end),
        })
    }

    /// Ticks that count are after this instant.
    fn lower_bound(&self, past: &Past, now: DateTime<Utc>) -> DateTime<Utc> {
        let lower = past
            .last_tick
            .map_or(past.since, |last| last.max(past.since));
        let unwatched_until = past.watched_since.min(now);
        let in_window = |lower: DateTime<Utc>| {
            let window = self.catchup_window.and_then(|window| {
                unwatched_until.checked_sub_signed(TimeDelta::from_std(window).ok()?)
            });
            window.map_or(lower, |oldest| lower.max(oldest - MOMENT))
        };
        match self.catchup {
            Catchup::All => in_window(lower),
            Catchup::None => self
                .last_fired(unwatched_until)
                .map_or(lower, |last| lower.max(last)),
            Catchup::Latest => in_window(
                self.last_fired(unwatched_until)
                    .map_or(lower, |last| lower.max(last - MOMENT)),
            ),
        }
    }

    /// The last tick that has fired at `instant`. No more than one can be pending: each fires before the next.
    fn last_fired(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let last = self.schedule.previous_before(instant + MOMENT)?;
        if self.fires_at(last) <= instant {
            Some(last)
        } else {
            self.schedule.previous_before(last)
        }
    }
}
