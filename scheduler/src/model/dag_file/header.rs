//! Reads the table `[dag]`: the id, and when the DAG runs.

use std::{str::FromStr, time::Duration};

use chrono::{DateTime, LocalResult, NaiveDate, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use toml::{Spanned, de::DeValue};

use super::{
    alerts, datasets,
    diagnostic::{Report, quoted},
    read::Syntax,
    table::{Table, Text, word, wrong_type},
};
use crate::model::{Catchup, DagId, DatasetExpression, Overlap, Schedule};

/// The table `[dag]`.
#[derive(Default)]
pub(super) struct Header {
    pub(super) id: Option<DagId>,
    pub(super) description: String,
    pub(super) schedule: Option<Schedule>,
    pub(super) datasets: Option<DatasetExpression>,
    pub(super) start: Option<DateTime<Utc>>,
    pub(super) end: Option<DateTime<Utc>>,
    pub(super) catchup: Catchup,
    pub(super) catchup_window: Option<Duration>,
    pub(super) jitter: Option<Duration>,
    pub(super) overlap: Overlap,
    pub(super) max_active_runs: Option<u32>,
    pub(super) max_active_tasks: Option<u32>,
    pub(super) no_success_for: Option<Duration>,
    pub(super) timeout: Option<Duration>,
}

/// Airflow's default.
pub(super) const MAX_ACTIVE_RUNS: u32 = 16;

pub(super) const DAG_KEYS: [&str; 14] = [
    "id",
    "description",
    "schedule",
    "timezone",
    "start",
    "end",
    "catchup",
    "catchup_window",
    "jitter",
    "overlap",
    "max_active_runs",
    "max_active_tasks",
    "no_success_for",
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
        .and_then(|start| instant(start, "`start`", reading_zone, report));
    let end = dag
        .value("end")
        .and_then(|end| instant(end, "`end`", reading_zone, report));
    check_order(dag, start, end, report);
    let catchup = word(
        dag,
        "catchup",
        &[
            ("none", Catchup::None),
            ("latest", Catchup::Latest),
            ("all", Catchup::All),
        ],
        report,
    )
    .unwrap_or_default();
    let overlaps = Overlap::ALL.map(|overlap| (overlap.as_str(), overlap));
    let schedule = dag
        .value("schedule")
        .filter(|value| !datasets::is_meant(value))
        .and_then(|value| schedule(value, start, reading_zone, report));
    let datasets = dag
        .value("schedule")
        .and_then(|value| datasets::awaited(value, report));
    Header {
        id: dag.name("id", report).and_then(|id| DagId::new(id.text)),
        description: dag
            .text("description", report)
            .map(|text| text.text)
            .unwrap_or_default(),
        schedule,
        datasets,
        start,
        end,
        catchup,
        catchup_window: catchup_window(dag, catchup, report),
        jitter: whole_seconds(dag, "jitter", report),
        overlap: word(dag, "overlap", &overlaps, report).unwrap_or_default(),
        max_active_runs: dag
            .integer("max_active_runs", 1..=10_000, report)
            .and_then(|runs| u32::try_from(runs).ok()),
        max_active_tasks: dag
            .integer("max_active_tasks", 1..=10_000, report)
            .and_then(|tasks| u32::try_from(tasks).ok()),
        no_success_for: alerts::positive_duration(dag, "no_success_for", report),
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

/// Notes an end that no interval can begin before.
fn check_order(
    dag: &Table<'_, '_>,
    start: Option<DateTime<Utc>>,
    end: Option<DateTime<Utc>>,
    report: &mut Report<'_>,
) {
    if let (Some(start), Some(end), Some(written)) = (start, end, dag.value("end"))
        && end < start
    {
        report.refuse(
            written.span(),
            "`end` lies before `start`",
            "no interval begins between them",
            Some(
                "no scheduled run is made for an interval before `start` or after `end`".to_owned(),
            ),
        );
    }
}

fn catchup_window(
    dag: &Table<'_, '_>,
    catchup: Catchup,
    report: &mut Report<'_>,
) -> Option<Duration> {
    let window = whole_seconds(dag, "catchup_window", report)?;
    match catchup {
        Catchup::Latest | Catchup::All => Some(window),
        Catchup::None => {
            report.refuse(
                dag.key_span("catchup_window").unwrap_or(dag.place.clone()),
                "`catchup_window` is set, but nothing is made up for",
                "needs `catchup`",
                Some("add `catchup = \"all\"` or `catchup = \"latest\"`".to_owned()),
            );
            None
        }
    }
}

/// A duration that schedules can count in.
fn whole_seconds(dag: &Table<'_, '_>, key: &str, report: &mut Report<'_>) -> Option<Duration> {
    let found = dag.duration(key, report)?;
    if found.is_zero() || found.subsec_nanos() > 0 {
        report.refuse(
            dag.value(key).map_or(dag.place.clone(), Spanned::span),
            format!("`{key}` must be whole seconds, at least one"),
            "not whole seconds",
            Some("write such as \"90s\" or \"15m\", or leave the key out".to_owned()),
        );
        return None;
    }
    Some(found)
}

fn instant(
    value: &Spanned<DeValue<'_>>,
    called: &str,
    zone: Tz,
    report: &mut Report<'_>,
) -> Option<DateTime<Utc>> {
    const EXAMPLE: &str =
        "write a date without quotes, such as `2026-01-01T00:00:00Z` or `2026-01-01`";
    let DeValue::Datetime(date) = value.get_ref() else {
        wrong_type(
            report,
            value.span(),
            called,
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
        let message = format!("{called} must be an instant, found {}", quoted(&written));
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
            return in_table(&table, start, zone, report);
        }
        DeValue::Array(items) => {
            let schedules: Vec<_> = items
                .iter()
                .filter(|item| !datasets::is_meant(item))
                .map(|item| schedule(item, start, zone, report))
                .collect();
            Schedule::any_of(schedules.into_iter().collect::<Option<Vec<_>>>()?)
        }
        other => {
            let hint = match other {
                DeValue::Datetime(date) => format!("write `{{ at = [{date}] }}` for instants"),
                _ => "write a cron expression such as \"0 2 * * *\", or `{ every = \"15m\" }`, or a list of them".to_owned(),
            };
            wrong_type(
                report,
                value.span(),
                "`schedule`",
                "a schedule",
                other,
                Some(hint),
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

const SCHEDULE_KEYS: [&str; 3] = ["every", "anchor", "at"];

/// `{ every = …, anchor = … }` or `{ at = [ … ] }`.
fn in_table(
    table: &Table<'_, '_>,
    start: Option<DateTime<Utc>>,
    zone: Tz,
    report: &mut Report<'_>,
) -> Option<Schedule> {
    table.deny_unknown(&SCHEDULE_KEYS, report);
    if let Some(at) = table.value("at") {
        for other in ["every", "anchor"] {
            if let Some(span) = table.key_span(other) {
                report.refuse(
                    span,
                    format!("`{other}` does not go with `at`"),
                    "another schedule",
                    Some(
                        "write several schedules as a list: `[{ at = [ … ] }, { every = \"1h\" }]`"
                            .to_owned(),
                    ),
                );
            }
        }
        let listed = table.list("at", report);
        let instants: Vec<_> = listed
            .iter()
            .map(|value| instant(value, "an element of `at`", zone, report))
            .collect();
        let instants = instants.into_iter().collect::<Option<Vec<_>>>()?;
        if listed.is_empty() && at.get_ref().as_array().is_none() {
            return None;
        }
        return Schedule::at_instants(instants, start, zone)
            .map_err(|error| {
                let message = format!("`at`: {}", error.message);
                report.refuse(at.span(), message, "", error.hint);
            })
            .ok();
    }
    let value = table.require("every", "every = \"15m\"", report)?;
    let every = table.text("every", report)?;
    let anchor = match table.value("anchor") {
        Some(anchor) => Some(instant(anchor, "`anchor`", zone, report)?),
        None => start,
    };
    Schedule::parse_every(&every.text, anchor, zone)
        .map_err(|error| {
            let label = "expected a duration such as \"15m\"";
            report.refuse(
                value.span(),
                format!("`every`: {}", error.message),
                label,
                error.hint,
            );
        })
        .ok()
}
