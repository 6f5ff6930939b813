//! Reads `[[deadline]]` and `[[notify]]`: what people are told.

use std::time::Duration;

use pinwheel_tasks::duration;
use toml::Spanned;

use super::{
    declared::Runs,
    diagnostic::{Report, quoted, quoted_list},
    read::Syntax,
    table::{Table, Text, word},
};
use crate::model::{Deadline, Event, Notify, Origin, TaskId};

/// How long notifications of one kind wait after a message, unless the file says otherwise.
pub(super) const COOL_DOWN: Duration = Duration::from_secs(5 * 60);
pub(super) const LONGEST_NAME: usize = 100;
pub(super) const DEADLINE_KEYS: [&str; 4] = ["from", "after", "task", "name"];
pub(super) const NOTIFY_KEYS: [&str; 4] = ["on", "to", "tasks", "cool_down"];
/// Every run has a row for each deadline, and every event one for each channel.
const MOST: usize = 50;

/// Reads `[[deadline]]`.
pub(super) fn deadlines(
    file: &Table<'_, '_>,
    tasks: &[&str],
    runs: Runs,
    syntax: Syntax,
    report: &mut Report<'_>,
) -> Vec<Deadline> {
    let mut found: Vec<Deadline> = Vec::new();
    for table in tables(file, "deadline", report) {
        table.deny_unknown(&DEADLINE_KEYS, report);
        if syntax == Syntax::Whole {
            table.require("from", "from = \"scheduled\"", report);
            table.require("after", "after = \"30m\"", report);
        }
        let origins = Origin::ALL.map(|origin| (origin.as_str(), origin));
        let from = word(&table, "from", &origins, report);
        if from == Some(Origin::Scheduled) && runs == Runs::ByHand && syntax == Syntax::Whole {
            report.refuse(
                table
                    .value("from")
                    .map_or(table.place.clone(), Spanned::span),
                "a deadline from `scheduled` needs a schedule",
                "the DAG has none",
                Some("give the DAG a `schedule`, or count from `queued` or `started`".to_owned()),
            );
        }
        let after = positive_duration(&table, "after", report);
        let task = table
            .text("task", report)
            .and_then(|task| known_task(&task, tasks, report));
        let name = table
            .text("name", report)
            .and_then(|name| shown_name(name, report));
        let (Some(from), Some(after)) = (from, after) else {
            continue;
        };
        let name = name.map_or_else(|| words(from, after, task.as_ref()), |name| name.text);
        if found.iter().any(|other| other.name == name) {
            report.refuse(
                table.place.clone(),
                format!("two deadlines are called {}", quoted(&name)),
                "",
                Some("give each a `name` of its own".to_owned()),
            );
        }
        found.push(Deadline {
            name,
            from,
            after,
            task,
        });
    }
    found
}

/// Reads `[[notify]]`.
pub(super) fn notify(
    file: &Table<'_, '_>,
    tasks: &[&str],
    syntax: Syntax,
    report: &mut Report<'_>,
) -> Vec<Notify> {
    let mut found = Vec::new();
    for table in tables(file, "notify", report) {
        table.deny_unknown(&NOTIFY_KEYS, report);
        if syntax == Syntax::Whole {
            table.require("to", "to = \"ops\"", report);
            if table.require("on", "on = [\"failure\"]", report).is_some()
                && table.list("on", report).is_empty()
            {
                report.refuse(
                    table.value("on").map_or(table.place.clone(), Spanned::span),
                    "`on` names no event",
                    "nobody would ever be told",
                    Some(format!("the events are {}", quoted_list(events()))),
                );
            }
        }
        let on = table
            .texts("on", report)
            .iter()
            .filter_map(|text| event(text, report))
            .collect();
        let to = table.name("to", report);
        let chosen = table
            .texts("tasks", report)
            .iter()
            .filter_map(|task| known_task(task, tasks, report))
            .collect();
        let cool_down = table.duration("cool_down", report).unwrap_or(COOL_DOWN);
        if let Some(to) = to {
            found.push(Notify {
                on,
                to: to.text,
                tasks: chosen,
                cool_down,
            });
        }
    }
    found
}

/// A duration that is not zero.
pub(super) fn positive_duration(
    table: &Table<'_, '_>,
    key: &str,
    report: &mut Report<'_>,
) -> Option<Duration> {
    let found = table.duration(key, report)?;
    if found.is_zero() {
        report.refuse(
            table.value(key).map_or(table.place.clone(), Spanned::span),
            format!("`{key}` must be longer than nothing"),
            "",
            None,
        );
        return None;
    }
    Some(found)
}

/// The tables of a list of tables.
fn tables<'t, 's>(file: &Table<'t, 's>, key: &str, report: &mut Report<'_>) -> Vec<Table<'t, 's>> {
    let items = file.list(key, report);
    if let Some(too_many) = items.get(MOST) {
        report.refuse(
            too_many.span(),
            format!(
                "the file has {} tables `[[{key}]]`; at most {MOST} are allowed",
                items.len()
            ),
            "this one is too many",
            None,
        );
        return Vec::new();
    }
    items
        .iter()
        .filter_map(|item| Table::of(format!("`[[{key}]]`"), item.span(), item, report))
        .collect()
}

fn known_task(written: &Text, tasks: &[&str], report: &mut Report<'_>) -> Option<TaskId> {
    if tasks.contains(&written.text.as_str()) {
        return TaskId::new(written.text.as_str());
    }
    let hint = report.guess(&written.text, tasks.iter().copied(), || {
        Some(format!(
            "the tasks are {}",
            quoted_list(tasks.iter().copied())
        ))
    });
    report.refuse(
        written.span.clone(),
        format!("unknown task {}", quoted(&written.text)),
        "no task has this id",
        hint,
    );
    None
}

fn shown_name(name: Text, report: &mut Report<'_>) -> Option<Text> {
    let characters = name.text.chars().count();
    if (1..=LONGEST_NAME).contains(&characters) && !name.text.chars().any(char::is_control) {
        return Some(name);
    }
    report.refuse(
        name.span,
        format!("`name` must have 1 to {LONGEST_NAME} characters on one line"),
        "",
        None,
    );
    None
}

fn event(written: &Text, report: &mut Report<'_>) -> Option<Event> {
    if let Ok(event) = written.text.parse() {
        return Some(event);
    }
    let hint = report.guess(&written.text, events(), || {
        Some(format!("the events are {}", quoted_list(events())))
    });
    report.refuse(
        written.span.clone(),
        format!("unknown event {}", quoted(&written.text)),
        "no such event",
        hint,
    );
    None
}

fn events() -> impl Iterator<Item = &'static str> {
    Event::ALL.into_iter().map(Event::as_str)
}

/// What a deadline without a name is called.
fn words(from: Origin, after: Duration, task: Option<&TaskId>) -> String {
    let after = duration::text(after);
    let began = match from {
        Origin::Scheduled => "was due",
        Origin::Queued => "was made",
        Origin::Started => "started",
    };
    match task {
        None => format!("the run is done {after} after it {began}"),
        Some(task) => format!("{task} is done {after} after the run {began}"),
    }
}
