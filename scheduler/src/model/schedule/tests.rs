//! Tests of schedules: named days, and every zone against an oracle that looks at every minute.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::*;

mod docs;
mod due;
mod named;
mod oracle;
mod text;

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().expect(text)
}

fn cron(expression: &str, zone: &str) -> Schedule {
    let zone: Tz = zone.parse().expect(zone);
    Schedule::parse_cron(expression, zone).unwrap_or_else(|error| panic!("{expression}: {error}"))
}

fn ticks(schedule: &Schedule, from: &str, count: usize) -> Vec<String> {
    let show = |at: DateTime<Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
    schedule
        .upcoming(utc(from), count)
        .into_iter()
        .map(|occurrence| show(occurrence.at))
        .collect()
}
