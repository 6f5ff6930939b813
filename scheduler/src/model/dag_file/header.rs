//! Reads the table `[dag]`: the id, and when the DAG runs.

use std::{str::FromStr, time::Duration};

use chrono::{DateTime, LocalResult, NaiveDate, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use toml::{Spanned, de::DeValue};

use super::{
    diagnostic::{Report, quoted},
    read::Syntax,
    table::{Table, Text, word, wrong_type},
};
use crate::model::{Catchup, DagId, Schedule};

/// The table `[dag]`.
#[derive(Default)]
pub(super) struct Header {
    pub(super) id: Option<DagId>,
    pub(super) description: String,
    pub(super) schedule: Option<Schedule>,
    pub(super) start: Option<DateTime<Utc>>,
    pub(super) catchup: Catchup,
    pub(super) max_active_runs: Option<u32>,
    pub(super) max_active_tasks: Option<u32>,
    pub(super) timeout: Option<Duration>,
}

/// Airflow's default.
pub(super) const MAX_ACTIVE_RUNS: u32 = 16;

pub(super) const DAG_KEYS: [&str; 9] = [
    "id",
    "description",
    "schedule",
    "timezone",
    "start",
    "catchup",
    "max_active_runs",
    "max_active_tasks",
    "timeout",
];

/// Reads the table `[dag]` as far as it can be.
pub(super) fn header(dag: &Table<'_, '_>, syntax: Syntax, report: &mut Report<'_>) -> Header {
    dag.deny_unknown(&DAG_KEYS, report);
    if syntax == Syntax::Whole {
        dag.require("id", "id = \"my_dag\"", report);
    }
    let zone = dag
        .text("timezone", report)
        .map_or(Some(Tz::UTC), |zone| timezone(&zone, report));
    // A wrong zone must not hide what is wrong with the schedule.
    let reading_zone = zone.unwrap_or(Tz::UTC);
    let start = dag
        .value("start")
        .and_then(|start| instant(start, reading_zone, report));
    let schedule = dag
        .value("schedule")
        .and_then(|value| schedule(value, start, reading_zone, report));
    Header {
        id: dag.name("id", report).and_then(|id| DagId::new(id.text)),
        description: dag
            .text("description", report)
            .map(|text| text.text)
            .unwrap_or_default(),
        schedule,
        start,
        catchup: word(
            dag,
            "catchup",
            &[
                ("none", Catchup::None),
                ("latest", Catchup::Latest),
                ("all", Catchup::All),
            ],
            report,
        )
        .unwrap_or_default(),
        max_active_runs: dag
            .integer("max_active_runs", 1..=10_000, report)
            .and_then(|runs| u32::try_from(runs).ok()),
        max_active_tasks: dag
            .integer("max_active_tasks", 1..=10_000, report)
            .and_then(|tasks| u32::try_from(tasks).ok()),
        timeout: dag.limit("timeout", report),
    }
}

fn timezone(written: &Text, report: &mut Report<'_>) -> Option<Tz> {
    if let Ok(zone) = Tz::from_str(&written.text) {
        return Some(zone);
    }
    // `london` means the last part of a name; spaces are written for underscores.
    let wanted = written.text.trim().replace(' ', "_").to_lowercase();
    let by_city = TZ_VARIANTS.iter().map(|zone| zone.name()).find(|name| {
        name.to_lowercase() == wanted
            || name
                .rsplit('/')
                .next()
                .is_some_and(|city| city.to_lowercase() == wanted)
    });
    let hint = match by_city {
        Some(name) => Some(format!("did you mean `{name}`?")),
        None => report.guess(
            &written.text,
            TZ_VARIANTS.iter().map(|zone| zone.name()),
            || {
                Some(
                    "use a name of the IANA time zone database, such as `Europe/London` or `UTC`"
                        .to_owned(),
                )
            },
        ),
    };
    report.refuse(
        written.span.clone(),
        format!("unknown time zone {}", quoted(&written.text)),
        "not an IANA time zone",
        hint,
    );
    None
}

fn instant(
    value: &Spanned<DeValue<'_>>,
    zone: Tz,
    report: &mut Report<'_>,
) -> Option<DateTime<Utc>> {
    const EXAMPLE: &str =
        "write a date without quotes, such as `2026-01-01T00:00:00Z` or `2026-01-01`";
    let DeValue::Datetime(date) = value.get_ref() else {
        wrong_type(
            report,
            value.span(),
            "`start`",
            "a date",
            value.get_ref(),
            Some(EXAMPLE.to_owned()),
        );
        return None;
    };
    let written = date.to_string();
    let found = match (date.date, date.time, date.offset) {
        (Some(_), Some(_), Some(_)) => DateTime::parse_from_rfc3339(&written)
            .ok()
            .map(|instant| instant.with_timezone(&Utc)),
        (Some(_), Some(_), None) => NaiveDateTime::from_str(&written)
            .ok()
            .and_then(|local| local_instant(local, zone)),
        (Some(_), None, _) => NaiveDate::from_str(&written)
            .ok()
            .and_then(|day| local_instant(day.and_hms_opt(0, 0, 0)?, zone)),
        (None, _, _) => None,
    };
    if found.is_none() {
        let message = format!("`start` must be an instant, found {}", quoted(&written));
        report.refuse(
            value.span(),
            message,
            "not an instant",
            Some(EXAMPLE.to_owned()),
        );
    }
    found
}

/// The first instant whose local time is `local`, or the first after the gap where there is none.
fn local_instant(local: NaiveDateTime, zone: Tz) -> Option<DateTime<Utc>> {
    match zone.from_local_datetime(&local) {
        LocalResult::Single(instant) | LocalResult::Ambiguous(instant, _) => {
            Some(instant.with_timezone(&Utc))
        }
        LocalResult::None => {
            let later = local.checked_add_signed(TimeDelta::hours(1))?;
            zone.from_local_datetime(&later)
                .earliest()
                .map(|instant| instant.with_timezone(&Utc))
        }
    }
}

fn schedule(
    value: &Spanned<DeValue<'_>>,
    start: Option<DateTime<Utc>>,
    zone: Tz,
    report: &mut Report<'_>,
) -> Option<Schedule> {
    let parsed = match value.get_ref() {
        DeValue::String(expression) => Schedule::parse_cron(expression, zone),
        DeValue::Table(_) => {
            let table = Table::of("`schedule`", value.span(), value, report)?;
            table.deny_unknown(&["every"], report);
            let value = table.require("every", "every = \"15m\"", report)?;
            let every = table.text("every", report)?;
            return Schedule::parse_every(&every.text, start, zone)
                .map_err(|error| {
                    let label = "expected a duration such as \"15m\"";
                    report.refuse(
                        value.span(),
                        format!("`every`: {}", error.message),
                        label,
                        error.hint,
                    );
                })
                .ok();
        }
        DeValue::Array(items) => {
            let schedules: Vec<_> = items
                .iter()
                .map(|item| schedule(item, start, zone, report))
                .collect();
            Schedule::any_of(schedules.into_iter().collect::<Option<Vec<_>>>()?)
        }
        other => {
            let hint = "write a cron expression such as \"0 2 * * *\", or `{ every = \"15m\" }`, or a list of them";
            wrong_type(
                report,
                value.span(),
                "`schedule`",
                "a schedule",
                other,
                Some(hint.to_owned()),
            );
            return None;
        }
    };
    parsed
        .map_err(|error| {
            report.refuse(
                value.span(),
                format!("invalid schedule: {}", error.message),
                "",
                error.hint,
            )
        })
        .ok()
}
