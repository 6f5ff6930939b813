//! The logical date that a command line names: which instant it means, and which data interval goes with it.

use chrono::{DateTime, NaiveDate, NaiveTime, TimeZone, Utc};
use pinwheel_scheduler::model::{Dag, schedule::DataInterval};

use crate::failure::{Failure, Result};

/// The instant that was asked for, or now.
pub(crate) fn read(dag: &Dag, given: Option<&str>) -> Result<DateTime<Utc>> {
    match given {
        Some(text) => instant(dag, "--date", text),
        None => Ok(Utc::now()),
    }
}

/// What a run with this logical date works on, as on a server. Without a schedule that is the instant itself.
pub(crate) fn interval(dag: &Dag, logical_date: DateTime<Utc>) -> DataInterval {
    dag.schedule
        .as_ref()
        .and_then(|schedule| schedule.interval_of(logical_date))
        .unwrap_or(DataInterval {
            start: logical_date,
            end: logical_date,
        })
}

/// A day is its first moment where the schedule is.
pub(crate) fn instant(dag: &Dag, flag: &str, text: &str) -> Result<DateTime<Utc>> {
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Ok(instant.with_timezone(&Utc));
    }
    let day: NaiveDate = text.parse().map_err(|_| {
        Failure::invalid(format!("`{flag} {text}` is no date"))
            .hint("write a day such as 2026-01-31, or a time such as 2026-01-31T02:00:00Z")
    })?;
    let midnight = day.and_time(NaiveTime::MIN);
    let zone = dag
        .schedule
        .as_ref()
        .map_or(chrono_tz::UTC, |schedule| schedule.zone());
    Ok(zone
        .from_local_datetime(&midnight)
        .earliest()
        .map_or_else(|| midnight.and_utc(), |local| local.with_timezone(&Utc)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pinwheel_scheduler::model::dag_file;

    use super::*;
    use crate::registry;

    async fn dag(timing: &str) -> Dag {
        let registry = registry::for_checks(Path::new("dags"))
            .await
            .expect("the datasets are good");
        let text = format!("[dag]\nid = \"a\"\n{timing}\n[tasks.t]\nkind = \"noop\"\n");
        dag_file::load("a.toml", text.as_bytes(), &registry).expect("the file is good")
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("an instant")
    }

    #[tokio::test]
    async fn a_day_begins_where_the_schedule_is() {
        let dag = dag("schedule = \"@daily\"\ntimezone = \"Europe/London\"").await;
        let date = read(&dag, Some("2026-07-01")).expect("a date");
        assert_eq!(date, at("2026-06-30T23:00:00Z"));
        let begins_there = interval(&dag, date);
        assert_eq!(
            (begins_there.start, begins_there.end),
            (date, at("2026-07-01T23:00:00Z"))
        );
        assert_eq!(
            read(&dag, Some("2026-07-01T02:00:00+02:00")).expect("a date"),
            at("2026-07-01T00:00:00Z")
        );
        assert!(read(&dag, Some("yesterday")).is_err());
    }

    #[tokio::test]
    async fn where_no_interval_begins_it_is_the_last_complete_one() {
        let nightly = dag("schedule = \"0 2 * * *\"").await;
        let date = at("2026-01-31T00:00:00Z");
        let complete = interval(&nightly, date);
        assert_eq!(
            (complete.start, complete.end),
            (at("2026-01-29T02:00:00Z"), at("2026-01-30T02:00:00Z"))
        );
        let by_hand = interval(&dag("").await, date);
        assert_eq!((by_hand.start, by_hand.end), (date, date));
    }
}
