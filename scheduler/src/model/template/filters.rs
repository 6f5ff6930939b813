//! The filters of the template language: minijinja's, and two for dates.

use chrono::{DateTime, Days, NaiveDate, Utc, format::StrftimeItems};
use minijinja::{Environment, Error, ErrorKind};

/// Every filter by its usual name, for guesses and the docs.
pub(in crate::model) const FILTERS: [&str; 48] = [
    "abs",
    "attr",
    "batch",
    "bool",
    "capitalize",
    "chain",
    "count",
    "d",
    "default",
    "dictsort",
    "ds_add",
    "escape",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
    "slice",
    "sort",
    "split",
    "strftime",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
    "zip",
];

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("ds_add", ds_add);
    environment.add_filter("strftime", strftime);
}

/// `{{ ds | ds_add(-1) }}`: a date some days later or earlier, as Airflow's `macros.ds_add`.
fn ds_add(date: &str, days: i64) -> Result<String, Error> {
    let refuse = |what: String| Error::new(ErrorKind::InvalidOperation, what);
    let day = NaiveDate::parse_from_str(date, "%Y-%m-%d").map_err(|_| {
        refuse(format!(
            "`ds_add` expects a date such as 2026-01-31, found `{date}`"
        ))
    })?;
    let step = Days::new(days.unsigned_abs());
    let moved = if days < 0 {
        day.checked_sub_days(step)
    } else {
        day.checked_add_days(step)
    };
    moved
        .map(|day| day.to_string())
        .ok_or_else(|| refuse(format!("{days} days from {date} is no date")))
}

/// `{{ logical_date | strftime("%Y/%m/%d") }}`: an instant in UTC in a format of one's own.
fn strftime(instant: &str, format: &str) -> Result<String, Error> {
    let refuse = |what: String| Error::new(ErrorKind::InvalidOperation, what);
    let instant = DateTime::parse_from_rfc3339(instant).map_err(|_| {
        refuse(format!(
            "`strftime` expects an instant such as `logical_date`, found `{instant}`"
        ))
    })?;
    let items = StrftimeItems::new(format)
        .parse()
        .map_err(|_| refuse(format!("the format `{format}` is not understood")))?;
    Ok(instant
        .with_timezone(&Utc)
        .format_with_items(items.iter())
        .to_string())
}
