//! When a DAG runs by itself: cron expressions with the meaning of Debian's cron in every time zone, fixed intervals,
//! lists of instants, and the data intervals that follow from them.
//!
//! Pure: no clock. Every function takes the instant it asks about.

mod cron_text;
mod describe;
mod due;
mod every;
mod instants;
mod jitter;
mod local;
mod occurrence;
mod wall;

#[cfg(test)]
mod tests;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

pub use due::{DataInterval, Due, Past, Planned, Timetable, first_since};
pub use jitter::Jitter;
pub use occurrence::{DstMark, Occurrence};

use every::Every;
use instants::Instants;
use local::Cron;

/// When a DAG runs by itself. Its ticks are instants on whole seconds, strictly increasing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Schedule {
    meaning: Meaning,
}

#[derive(Debug, Clone, PartialEq)]
enum Meaning {
    Cron(Box<Cron>),
    Every(Every),
    At(Instants),
    /// Fires whenever one of them does.
    AnyOf(Vec<Schedule>),
}

/// Why a schedule was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What is wrong, with the field and what was found: lowercase, no full stop.
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
}

impl Schedule {
    /// Reads a cron expression of five fields, six with seconds first, or a preset such as `@daily`.
    ///
    /// # Errors
    /// Names the field, what was found and what is allowed. An expression that can never fire is refused as well.
    pub fn parse_cron(expression: &str, zone: Tz) -> Result<Self, Error> {
        Ok(Self {
            meaning: Meaning::Cron(Box::new(Cron::parse(expression, zone)?)),
        })
    }

    /// Reads an interval such as `15m` or `1h 30m`. Ticks are `anchor` plus or minus any number of intervals;
    /// without an anchor that is the Unix epoch. `zone` is only used to show local times.
    ///
    /// # Errors
    /// The text is no duration, is shorter than a second, or has a part of a second.
    pub fn parse_every(
        interval: &str,
        anchor: Option<DateTime<Utc>>,
        zone: Tz,
    ) -> Result<Self, Error> {
        Ok(Self {
            meaning: Meaning::Every(Every::parse(interval, anchor, zone)?),
        })
    }

    /// A schedule that fires at these instants and never else. The data interval of the first begins at `origin`, a day
    /// before it without one; what is not after the origin is left out. `zone` is only used to show local times.
    ///
    /// # Errors
    /// There is no instant, none after the origin, or one with a part of a second.
    pub fn at_instants(
        instants: Vec<DateTime<Utc>>,
        origin: Option<DateTime<Utc>>,
        zone: Tz,
    ) -> Result<Self, Error> {
        Ok(Self {
            meaning: Meaning::At(Instants::new(instants, origin, zone)?),
        })
    }

    /// A schedule that fires whenever one of `schedules` does, once where several do.
    ///
    /// # Errors
    /// The list is empty.
    pub fn any_of(schedules: Vec<Self>) -> Result<Self, Error> {
        match schedules.len() {
            0 => Err(Error {
                message: "the list of schedules is empty".to_owned(),
                hint: Some("leave `schedule` out for a DAG that only runs by hand".to_owned()),
            }),
            1 => Ok(schedules
                .into_iter()
                .next()
                .expect("the length was just matched")),
            _ => Ok(Self {
                meaning: Meaning::AnyOf(schedules),
            }),
        }
    }

    /// The first tick after `instant`, which itself does not count.
    /// `None` when there is none before the year 2101.
    pub fn next_after(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.meaning {
            Meaning::Cron(cron) => cron.next_after(instant),
            Meaning::Every(every) => every.next_after(instant),
            Meaning::At(instants) => instants.next_after(instant),
            Meaning::AnyOf(schedules) => schedules
                .iter()
                .filter_map(|schedule| schedule.next_after(instant))
                .min(),
        }
    }

    /// The last tick before `instant`, which itself does not count.
    /// `None` when there is none after the year 1969.
    pub fn previous_before(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.meaning {
            Meaning::Cron(cron) => cron.previous_before(instant),
            Meaning::Every(every) => every.previous_before(instant),
            Meaning::At(instants) => instants.previous_before(instant),
            Meaning::AnyOf(schedules) => schedules
                .iter()
                .filter_map(|schedule| schedule.previous_before(instant))
                .max(),
        }
    }

    /// The next `count` ticks after `from`, which itself does not count, with the local time and a mark where a
    /// change of the zone's clock matters.
    pub fn upcoming(&self, from: DateTime<Utc>, count: usize) -> Vec<Occurrence> {
        let mut last = from;
        std::iter::from_fn(|| {
            last = self.next_after(last)?;
            Some(self.occurrence(last))
        })
        .take(count)
        .collect()
    }

    /// The schedule in words, such as `every day at 02:00 Europe/London`.
    pub fn describe(&self) -> String {
        describe::schedule(self)
    }

    /// The schedule as a file would say it, such as `0 2 * * *` or `every 15m`.
    pub fn text(&self) -> String {
        match &self.meaning {
            Meaning::Cron(cron) => cron.text().to_owned(),
            Meaning::Every(every) => format!("every {}", every.text()),
            Meaning::At(instants) => describe::instants_as_written(instants.instants()),
            Meaning::AnyOf(schedules) => schedules
                .iter()
                .map(Self::text)
                .collect::<Vec<_>>()
                .join(", "),
        }
    }

    /// The zone whose clock the schedule follows, or shows its times in.
    pub fn zone(&self) -> Tz {
        match &self.meaning {
            Meaning::Cron(cron) => cron.zone(),
            Meaning::Every(every) => every.zone(),
            Meaning::At(instants) => instants.zone(),
            Meaning::AnyOf(schedules) => schedules.first().map_or(Tz::UTC, Self::zone),
        }
    }

    fn occurrence(&self, at: DateTime<Utc>) -> Occurrence {
        occurrence::at(self, at)
    }
}

impl Schedule {
    /// The data interval that a tick closes: from the tick before it to itself. The first of a list of instants begins
    /// where the list says; `None` for the very first tick of anything else.
    pub fn interval_closed_by(&self, tick: DateTime<Utc>) -> Option<DataInterval> {
        Some(DataInterval {
            start: self
                .previous_before(tick)
                .or_else(|| self.before_first(tick))?,
            end: tick,
        })
    }

    fn before_first(&self, tick: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.meaning {
            Meaning::Cron(_) | Meaning::Every(_) => None,
            Meaning::At(instants) => instants.before_first(tick),
            Meaning::AnyOf(schedules) => schedules
                .iter()
                .filter_map(|schedule| schedule.before_first(tick))
                .max(),
        }
    }

    /// The last data interval that is complete at `instant`: what a run made by hand works on.
    pub fn last_complete_interval(&self, instant: DateTime<Utc>) -> Option<DataInterval> {
        let end = self.previous_before(instant.checked_add_signed(TimeDelta::seconds(1))?)?;
        let end = if end > instant {
            self.previous_before(end)?
        } else {
            end
        };
        self.interval_closed_by(end)
    }

    /// The data interval of the run with this logical date: the one that begins there, as for a run of the schedule; for a date at
    /// which none begins, the last one that is complete.
    pub fn interval_of(&self, logical_date: DateTime<Utc>) -> Option<DataInterval> {
        self.next_after(logical_date)
            .and_then(|tick| self.interval_closed_by(tick))
            .filter(|interval| interval.start == logical_date)
            .or_else(|| self.last_complete_interval(logical_date))
    }
}

/// How a schedule is stored: its text and zone, parsed again when it is read.
#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Stored {
    Cron {
        cron: String,
        timezone: Tz,
    },
    Every {
        every: String,
        anchor: DateTime<Utc>,
        timezone: Tz,
    },
    At {
        at: Vec<DateTime<Utc>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<DateTime<Utc>>,
        timezone: Tz,
    },
    AnyOf {
        any_of: Vec<Schedule>,
    },
}

impl From<Schedule> for Stored {
    fn from(schedule: Schedule) -> Self {
        match schedule.meaning {
            Meaning::Cron(cron) => Self::Cron {
                cron: cron.text().to_owned(),
                timezone: cron.zone(),
            },
            Meaning::Every(every) => Self::Every {
                every: every.text().to_owned(),
                anchor: every.anchor(),
                timezone: every.zone(),
            },
            Meaning::At(instants) => Self::At {
                at: instants.instants().to_vec(),
                origin: instants.origin(),
                timezone: instants.zone(),
            },
            Meaning::AnyOf(schedules) => Self::AnyOf { any_of: schedules },
        }
    }
}

impl TryFrom<Stored> for Schedule {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self, Error> {
        match stored {
            Stored::Cron { cron, timezone } => Self::parse_cron(&cron, timezone),
            Stored::Every {
                every,
                anchor,
                timezone,
            } => Self::parse_every(&every, Some(anchor), timezone),
            Stored::At {
                at,
                origin,
                timezone,
            } => Self::at_instants(at, origin, timezone),
            Stored::AnyOf { any_of } => Self::any_of(any_of),
        }
    }
}
