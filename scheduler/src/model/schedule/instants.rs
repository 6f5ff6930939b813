//! A list of instants: for what comes on days that no rule describes.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::Error;

/// Ticks that are written down one by one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Instants {
    /// Ascending, without repetition, at least one.
    instants: Vec<DateTime<Utc>>,
    /// Where the data interval of the first one begins; a day before it when nothing says.
    origin: Option<DateTime<Utc>>,
    zone: Tz,
}

impl Instants {
    pub(super) fn new(
        mut instants: Vec<DateTime<Utc>>,
        origin: Option<DateTime<Utc>>,
        zone: Tz,
    ) -> Result<Self, Error> {
        if instants.is_empty() {
            return Err(Error {
                message: "the list of instants is empty".to_owned(),
                hint: Some("leave `schedule` out for a DAG that only runs by hand".to_owned()),
            });
        }
        if let Some(odd) = instants.iter().find(|at| at.timestamp_subsec_nanos() > 0) {
            return Err(Error {
                message: format!("`{}` has a part of a second", odd.to_rfc3339()),
                hint: Some("a DAG runs on whole seconds: write it without the fraction".to_owned()),
            });
        }
        instants.sort_unstable();
        instants.dedup();
        // What lies before the start could only make a run for a time before it.
        instants.retain(|at| origin.is_none_or(|origin| *at > origin));
        if instants.is_empty() {
            return Err(Error {
                message: "no instant lies after `start`, so it never fires".to_owned(),
                hint: Some(
                    "the first data interval begins at `start` and ends at the first instant after it"
                        .to_owned(),
                ),
            });
        }
        Ok(Self {
            instants,
            origin,
            zone,
        })
    }

    pub(super) fn instants(&self) -> &[DateTime<Utc>] {
        &self.instants
    }

    pub(super) fn origin(&self) -> Option<DateTime<Utc>> {
        self.origin
    }

    pub(super) fn zone(&self) -> Tz {
        self.zone
    }

    pub(super) fn next_after(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let passed = self.instants.partition_point(|at| *at <= instant);
        self.instants.get(passed).copied()
    }

    pub(super) fn previous_before(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let passed = self.instants.partition_point(|at| *at < instant);
        self.instants.get(passed.checked_sub(1)?).copied()
    }

    /// Where the data interval of a tick begins that no other tick comes before.
    pub(super) fn before_first(&self, tick: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.origin
            .or_else(|| tick.checked_sub_signed(TimeDelta::days(1)))
    }
}
