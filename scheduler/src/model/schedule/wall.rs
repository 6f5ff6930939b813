//! The wall calendar of a cron expression: which dates and times of day match, without any zone. The crate `cron`
//! walks the calendar; this module gives it our numbers, and the OR of the two day fields, which it does not have.
//!
//! A wall time is a number of seconds since 1970-01-01 00:00 on the wall.

use std::str::FromStr;

use chrono::DateTime;

use super::{Error, cron_text::Expression, cron_text::Field};

/// Which wall times match.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wall {
    /// One, or two when either of the day fields may match.
    schedules: Vec<cron::Schedule>,
}

/// 2100-12-31 23:59:59, the last second the crate knows.
const LAST: i64 = 4_133_980_799;
/// One second before the first one it knows.
const BEFORE_FIRST: i64 = -1;

impl Wall {
    /// # Errors
    /// No date matches, such as 31 February.
    pub(super) fn new(expression: &Expression) -> Result<Self, Error> {
        let time = |days_of_month: &str, days_of_week: &str| {
            let text = format!(
                "{} {} {} {days_of_month} {} {days_of_week}",
                list(&expression.seconds, 0, 60),
                list(&expression.minutes, 0, 60),
                list(&expression.hours, 0, 24),
                list(&expression.months, 0, 12),
            );
            cron::Schedule::from_str(&text).expect("every value was checked against its range")
        };
        let days_of_month = list(&expression.days_of_month, 0, 31);
        // The crate counts from Sunday as 1.
        let days_of_week = list(&expression.days_of_week, 1, 7);
        let either =
            !expression.days_of_month.is_starred() && !expression.days_of_week.is_starred();
        let schedules = if either {
            vec![time(&days_of_month, "*"), time("*", &days_of_week)]
        } else {
            vec![time(&days_of_month, &days_of_week)]
        };
        let wall = Self { schedules };
        match wall.next_after(BEFORE_FIRST) {
            Some(_) => Ok(wall),
            None => Err(Error {
                message: format!("`{}` never fires: no such date exists", expression.text),
                hint: Some(
                    "day of month and month must name a date that comes in some year, such as `29 2`".to_owned(),
                ),
            }),
        }
    }

    /// The first match after `wall`, none after the year 2100.
    pub(super) fn next_after(&self, wall: i64) -> Option<i64> {
        let from = DateTime::from_timestamp(wall.clamp(BEFORE_FIRST, LAST), 0)?;
        self.schedules
            .iter()
            .filter_map(|schedule| schedule.after(&from).next())
            .min()
            .map(|at| at.timestamp())
    }

    /// The last match before `wall`, none before the year 1970.
    pub(super) fn previous_before(&self, wall: i64) -> Option<i64> {
        if wall <= 0 {
            return None;
        }
        let from = DateTime::from_timestamp(wall.min(LAST + 1), 0)?;
        let last_matches = |schedule: &cron::Schedule| {
            let includes_last = from.timestamp() > LAST
                && DateTime::from_timestamp(LAST, 0).is_some_and(|last| schedule.includes(last));
            if includes_last {
                return DateTime::from_timestamp(LAST, 0);
            }
            let from = DateTime::from_timestamp(from.timestamp().min(LAST), 0)?;
            schedule.after(&from).next_back()
        };
        self.schedules
            .iter()
            .filter_map(last_matches)
            .max()
            .map(|at| at.timestamp())
    }
}

/// A field for the crate: `*` when all values are allowed, otherwise the values.
fn list(field: &Field, shift: u32, all: usize) -> String {
    if field.values.len() == all {
        return "*".to_owned();
    }
    field
        .values
        .iter()
        .map(|value| (value + shift).to_string())
        .collect::<Vec<_>>()
        .join(",")
}
