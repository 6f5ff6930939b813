//! Backfills: which logical dates a range of a schedule holds, and what to do for each of them.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{RunState, Schedule, schedule::DataInterval};

/// The most dates one backfill may have.
pub const MOST_DATES: usize = 10_000;

/// Whether dates that have a run already run again, as Airflow's `reprocess_behavior`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "reprocess", rename_all = "lowercase")]
pub enum Reprocess {
    /// Only dates without a run.
    #[default]
    None,
    /// Also dates whose run failed or was cancelled.
    Failed,
    /// Every date.
    All,
}

impl Reprocess {
    /// All of them, in the order of the docs.
    pub const ALL: [Self; 3] = [Self::None, Self::Failed, Self::All];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Failed => "failed",
            Self::All => "all",
        }
    }
}

/// The order in which the dates run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The oldest first.
    #[default]
    Forwards,
    /// The newest first.
    Backwards,
}

/// What a run that fails means for the dates after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They run.
    #[default]
    Continue,
    /// The backfill stops, until somebody lets it go on.
    Stop,
}

/// The state of a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "backfill_state", rename_all = "lowercase")]
pub enum BackfillState {
    /// It begins runs as its concurrency allows.
    Running,
    /// A person has paused it: what runs goes on, nothing begins.
    Paused,
    /// A run has failed, and it was to stop then: what runs goes on, nothing begins.
    Stopped,
    /// Final: every date was looked at, and no run of it failed.
    Success,
    /// Final: every date was looked at, and a run of it failed.
    Failed,
    /// Final: a person ended it.
    Cancelled,
}

impl BackfillState {
    /// All of them, in the order in which a backfill goes through them.
    pub const ALL: [Self; 6] = [
        Self::Running,
        Self::Paused,
        Self::Stopped,
        Self::Success,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Says whether nothing follows.
    pub fn is_final(self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::Stopped => false,
            Self::Success | Self::Failed | Self::Cancelled => true,
        }
    }

    /// The state in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What became of a date of a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "backfill_date_state", rename_all = "lowercase")]
pub enum DateState {
    /// Its turn has not come.
    Waiting,
    /// A run was made for it.
    Made,
    /// Its run was cleared.
    Cleared,
    /// It was left alone: its run is as it should be, or was open.
    Left,
    /// The backfill was cancelled before its turn came.
    Cancelled,
}

/// What a backfill does for a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DateAction {
    /// Makes a run: there is none.
    Make,
    /// Clears the run that there is.
    Clear,
    /// Leaves the run that there is alone.
    Leave,
}

impl Reprocess {
    /// What to do for a date whose run is in this state. A run that is open is never touched: it gives the date its result.
    pub fn decide(self, run: Option<RunState>) -> DateAction {
        match (self, run) {
            (_, None) => DateAction::Make,
            (_, Some(RunState::Queued | RunState::Running)) | (Self::None, Some(_)) => {
                DateAction::Leave
            }
            (Self::Failed, Some(RunState::Success)) => DateAction::Leave,
            (Self::Failed, Some(RunState::Failed | RunState::Cancelled))
            | (Self::All, Some(RunState::Success | RunState::Failed | RunState::Cancelled)) => {
                DateAction::Clear
            }
        }
    }
}

/// Why a range gives no backfill.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Its end is before its start.
    #[error("the range ends at {to}, before it starts at {from}", from = shown(.from), to = shown(.to))]
    Reversed {
        /// Its start.
        from: DateTime<Utc>,
        /// Its end.
        to: DateTime<Utc>,
    },
    /// The schedule has no logical date in it whose data interval is over.
    #[error("the schedule has no complete data interval from {from} to {to}", from = shown(.from), to = shown(.to))]
    Empty {
        /// Its start.
        from: DateTime<Utc>,
        /// Its end.
        to: DateTime<Utc>,
    },
    /// It has more dates than one backfill may have.
    #[error("the range has more than {MOST_DATES} logical dates: the {MOST_DATES}th is {last}", last = shown(.last))]
    TooLong {
        /// The last date that would fit.
        last: DateTime<Utc>,
    },
}

fn shown(instant: &DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

/// The data intervals whose logical date is in a range, both ends inclusive, oldest first; only those that are over at
/// `now`, because before that there is no data for them. The DAG's own `start` does not matter: the range is explicit.
///
/// # Errors
/// The range is reversed, empty or too long.
pub fn dates(
    schedule: &Schedule,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Vec<DataInterval>, RangeError> {
    if to < from {
        return Err(RangeError::Reversed { from, to });
    }
    let mut intervals: Vec<DataInterval> = Vec::new();
    let mut start = schedule.next_after(from - TimeDelta::nanoseconds(1));
    while let Some(date) = start.filter(|date| *date <= to) {
        let Some(end) = schedule.next_after(date).filter(|end| *end <= now) else {
            break;
        };
        if intervals.len() == MOST_DATES {
            let last = intervals[MOST_DATES - 1].start;
            return Err(RangeError::TooLong { last });
        }
        intervals.push(DataInterval { start: date, end });
        start = Some(end);
    }
    if intervals.is_empty() {
        return Err(RangeError::Empty { from, to });
    }
    Ok(intervals)
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn daily(zone: Tz) -> Schedule {
        Schedule::parse_cron("0 0 * * *", zone).unwrap()
    }

    #[test]
    fn what_is_done_for_a_date_follows_from_its_run_and_nothing_else() {
        use DateAction::{Clear, Leave, Make};
        use RunState::{Cancelled, Failed, Queued, Running, Success};
        let table = [
            (None, [Make, Make, Make]),
            (Some(Queued), [Leave, Leave, Leave]),
            (Some(Running), [Leave, Leave, Leave]),
            (Some(Success), [Leave, Leave, Clear]),
            (Some(Failed), [Leave, Clear, Clear]),
            (Some(Cancelled), [Leave, Clear, Clear]),
        ];
        for (run, expected) in table {
            assert_eq!(
                Reprocess::ALL.map(|reprocess| reprocess.decide(run)),
                expected,
                "{run:?}"
            );
        }
    }

    #[test]
    fn both_ends_of_a_range_count() {
        let found = dates(
            &daily(Tz::UTC),
            at("2026-01-01T00:00:00Z"),
            at("2026-01-03T00:00:00Z"),
            at("2026-02-01T00:00:00Z"),
        )
        .unwrap();
        let found: Vec<_> = found.iter().map(DataInterval::logical_date).collect();
        assert_eq!(
            found,
            [
                "2026-01-01T00:00:00Z",
                "2026-01-02T00:00:00Z",
                "2026-01-03T00:00:00Z"
            ]
            .map(at)
        );
    }

    #[test]
    fn a_range_follows_the_clock_of_the_zone() {
        let london = daily(Tz::Europe__London);
        let found = dates(
            &london,
            at("2026-03-28T00:00:00Z"),
            at("2026-03-31T00:00:00Z"),
            at("2026-04-30T00:00:00Z"),
        )
        .unwrap();
        let found: Vec<_> = found.iter().map(DataInterval::logical_date).collect();
        assert_eq!(
            found,
            [
                "2026-03-28T00:00:00Z",
                "2026-03-29T00:00:00Z",
                "2026-03-29T23:00:00Z",
                "2026-03-30T23:00:00Z"
            ]
            .map(at)
        );
    }

    #[test]
    fn an_interval_that_is_not_over_is_left_out() {
        let found = dates(
            &daily(Tz::UTC),
            at("2026-01-01T12:00:00Z"),
            at("2026-01-09T00:00:00Z"),
            at("2026-01-03T12:00:00Z"),
        )
        .unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].start, at("2026-01-02T00:00:00Z"));
        assert_eq!(found[0].end, at("2026-01-03T00:00:00Z"));
    }

    #[test]
    fn a_range_without_dates_is_refused_with_the_reason() {
        let find = |from: &str, to: &str| {
            dates(
                &daily(Tz::UTC),
                at(from),
                at(to),
                at("2026-01-10T00:00:00Z"),
            )
        };
        assert!(matches!(
            find("2026-01-03T00:00:00Z", "2026-01-01T00:00:00Z"),
            Err(RangeError::Reversed { .. })
        ));
        assert!(matches!(
            find("2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z"),
            Err(RangeError::Empty { .. })
        ));
        assert!(matches!(
            find("2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            Err(RangeError::Empty { .. })
        ));
        assert!(find("1990-01-01T00:00:00Z", "2010-01-01T00:00:00Z").is_ok());
        assert!(matches!(
            find("1990-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            Err(RangeError::TooLong { last }) if last == at("2017-05-18T00:00:00Z")
        ));
    }
}
