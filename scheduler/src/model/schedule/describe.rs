//! A schedule in words, for people who do not read cron.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use pinwheel_tasks::duration;

use super::{
    Meaning, Schedule,
    cron_text::{Expression, Field},
    instants::Instants,
    local::Cron,
};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
/// More times than this are told as hours and minutes and not one by one.
const TIMES_LISTED: usize = 6;
/// More instants than this are told by the first and the last of them.
const INSTANTS_TOLD: usize = 4;
const INSTANTS_WRITTEN: usize = 3;

pub(super) fn schedule(schedule: &Schedule) -> String {
    match &schedule.meaning {
        Meaning::Cron(cron) => in_words(cron),
        Meaning::Every(every) => {
            let interval = duration::text(Duration::from_secs(every.seconds().unsigned_abs()));
            if every.anchor().timestamp() == 0 {
                format!("every {interval}")
            } else {
                format!(
                    "every {interval}, counted from {}",
                    every.anchor().format("%Y-%m-%d %H:%M:%S UTC")
                )
            }
        }
        Meaning::At(instants) => instants_in_words(instants),
        Meaning::AnyOf(schedules) => schedules
            .iter()
            .map(self::schedule)
            .collect::<Vec<_>>()
            .join("; "),
    }
}

/// The first few instants, as a file would say them.
pub(super) fn instants_as_written(instants: &[DateTime<Utc>]) -> String {
    let mut texts: Vec<String> = instants
        .iter()
        .take(INSTANTS_WRITTEN)
        .map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
        .collect();
    if let more @ 1.. = instants.len() - texts.len() {
        texts.push(format!("{more} more"));
    }
    format!("at {}", list(&texts))
}

fn instants_in_words(instants: &Instants) -> String {
    let zone = instants.zone();
    let local = |at: &DateTime<Utc>| {
        let clock = if at.timestamp() % 60 == 0 {
            "%Y-%m-%d %H:%M"
        } else {
            "%Y-%m-%d %H:%M:%S"
        };
        at.with_timezone(&zone).format(clock).to_string()
    };
    let all = instants.instants();
    match all {
        [only] => format!("once, at {} {}", local(only), zone.name()),
        [first, .., last] if all.len() > INSTANTS_TOLD => format!(
            "at {} instants from {} to {} {}",
            all.len(),
            local(first),
            local(last),
            zone.name()
        ),
        few => {
            let times: Vec<String> = few.iter().map(local).collect();
            format!("at {} {}", list(&times), zone.name())
        }
    }
}

fn in_words(cron: &Cron) -> String {
    let expression = cron.expression();
    let days = days(expression);
    let time = match times(expression) {
        Some(times) => format!(
            "{} at {}",
            days.as_deref().unwrap_or("every day"),
            list(&times)
        ),
        None => {
            let often = often(expression);
            days.map_or_else(|| often.clone(), |days| format!("{often}, {days}"))
        }
    };
    format!("{time} {}", cron.zone().name())
}

/// The times of day one by one, when they are few.
fn times(expression: &Expression) -> Option<Vec<String>> {
    let Expression {
        seconds,
        minutes,
        hours,
        ..
    } = expression;
    if seconds.values.len() * minutes.values.len() * hours.values.len() > TIMES_LISTED {
        return None;
    }
    let mut times = Vec::new();
    for hour in &hours.values {
        for minute in &minutes.values {
            for second in &seconds.values {
                times.push(if seconds.values == [0] {
                    format!("{hour:02}:{minute:02}")
                } else {
                    format!("{hour:02}:{minute:02}:{second:02}")
                });
            }
        }
    }
    Some(times)
}

fn often(expression: &Expression) -> String {
    let Expression {
        seconds,
        minutes,
        hours,
        ..
    } = expression;
    let mut parts = Vec::new();
    if seconds.values != [0] {
        parts.push(every(seconds, "second", 60, 0));
    }
    // A part below that says "every" already means each of this one, and the first part always says something.
    let below_repeats = !parts.is_empty();
    if !(below_repeats && minutes.values.len() == 60) {
        match (minutes.values.as_slice(), below_repeats) {
            ([0], false) if hours.values.len() == 24 => return "every hour".to_owned(),
            ([minute], false) if hours.values.len() == 24 => {
                return format!("every hour at minute {minute}");
            }
            _ => parts.push(every(minutes, "minute", 60, 0)),
        }
    }
    if hours.values.len() < 24 {
        parts.push(every(hours, "hour", 24, 0));
    }
    parts.join(" of ")
}

/// `every 15 minutes`, `minutes 5, 10 and 40`, `hours 9 to 17`.
fn every(field: &Field, unit: &str, all: u32, lowest: u32) -> String {
    let values = field.values.as_slice();
    if values.len() == usize::try_from(all).expect("a field has at most 60 values") {
        return format!("every {unit}");
    }
    if let Some(step) = step(values) {
        if values[0] == lowest
            && step * u32::try_from(values.len()).expect("at most 60 values") == all
        {
            return format!("every {step} {unit}s");
        }
        if step == 1 {
            return format!("{unit}s {} to {}", values[0], values[values.len() - 1]);
        }
    }
    let numbers: Vec<String> = values.iter().map(u32::to_string).collect();
    format!(
        "{unit}{} {}",
        if numbers.len() == 1 { "" } else { "s" },
        list(&numbers)
    )
}

/// The distance between three or more values when it is the same everywhere.
fn step(values: &[u32]) -> Option<u32> {
    let [first, second, _, ..] = values else {
        return None;
    };
    let step = second - first;
    values
        .windows(2)
        .all(|pair| pair[1] - pair[0] == step)
        .then_some(step)
}

/// On which days, `None` for every day.
fn days(expression: &Expression) -> Option<String> {
    let Expression {
        days_of_month,
        days_of_week,
        months,
        ..
    } = expression;
    let in_months = (months.values.len() < 12).then(|| month_names(&months.values));
    let of_month = (days_of_month.values.len() < 31).then(|| {
        let numbers = numbers(&days_of_month.values);
        let day = if days_of_month.values.len() == 1 {
            "day"
        } else {
            "days"
        };
        match &in_months {
            None => format!("{day} {numbers} of the month"),
            Some(months) => format!("{day} {numbers} of {months}"),
        }
    });
    let of_week = (days_of_week.values.len() < 7).then(|| names(&days_of_week.values, &DAYS, 0));
    let either = !days_of_month.is_starred() && !days_of_week.is_starred();
    let in_months = in_months
        .map(|months| format!(" in {months}"))
        .unwrap_or_default();
    match (of_month, of_week) {
        (None, None) if in_months.is_empty() => None,
        (None, None) => Some(format!("every day{in_months}")),
        (Some(of_month), None) if either => Some(format!(
            "every day{in_months} ({of_month} or any day of the week)"
        )),
        (Some(of_month), None) => Some(format!("on {of_month}")),
        (None, Some(of_week)) if either => Some(format!(
            "every day{in_months} (any day of the month or {of_week})"
        )),
        (None, Some(of_week)) => Some(format!("every {of_week}{in_months}")),
        (Some(of_month), Some(of_week)) if either => {
            Some(format!("on {of_month} and every {of_week}{in_months}"))
        }
        (Some(of_month), Some(of_week)) => Some(format!("on {of_month} when it is {of_week}")),
    }
}

fn numbers(values: &[u32]) -> String {
    match step(values) {
        Some(1) => format!("{} to {}", values[0], values[values.len() - 1]),
        Some(_) | None => list(&values.iter().map(u32::to_string).collect::<Vec<_>>()),
    }
}

fn month_names(values: &[u32]) -> String {
    names(values, &MONTHS, 1)
}

fn names(values: &[u32], names: &[&str], lowest: u32) -> String {
    let name = |value: u32| {
        names[usize::try_from(value - lowest).expect("a field has few values")].to_owned()
    };
    match step(values) {
        Some(1) => format!("{} to {}", name(values[0]), name(values[values.len() - 1])),
        Some(_) | None => list(&values.iter().map(|value| name(*value)).collect::<Vec<_>>()),
    }
}

/// `a`, `a and b`, `a, b and c`.
fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
