//! What a DAG tells people: deadlines, and which events go to which channel. Where a channel leads is no business of a
//! DAG file: it stands in the settings, with its secrets.

use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::TaskId;

/// What a DAG tells people.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Alerts {
    /// Somebody is told when no run has succeeded for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_success_for: Option<Duration>,
    /// What must be done by when, in the order of the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deadlines: Vec<Deadline>,
    /// Who is told of what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<Notify>,
}

/// By when a run, or one of its tasks, must be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deadline {
    /// What people call it.
    pub name: String,
    /// From when it counts.
    pub from: Origin,
    /// How long after that.
    pub after: Duration,
    /// The task that must be done; `None` is the run.
    pub task: Option<TaskId>,
}

/// From when a deadline counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// When the schedule should have made the run: the end of its data interval. Runs that no schedule made have none.
    Scheduled,
    /// When the run was made.
    Queued,
    /// When the run started.
    Started,
}

impl Origin {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Scheduled, Self::Queued, Self::Started];

    /// The word of DAG files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Started => "started",
        }
    }
}

/// Who is told of what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notify {
    /// Of what.
    pub on: Vec<Event>,
    /// The channel's name in the settings.
    pub to: String,
    /// Only of these tasks; empty is the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskId>,
    /// What happens within this time after a message waits for its end and goes out as one.
    pub cool_down: Duration,
}

/// What people can be told of.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Event {
    /// A run, or a task for good, failed.
    Failure,
    /// A try of a task failed, and another one follows.
    Retry,
    /// A run or a task succeeded.
    Success,
    /// A deadline was missed, or no run has succeeded for too long.
    Deadline,
    /// The first success after a failure.
    Recovery,
}

impl Event {
    /// Each of them.
    pub const ALL: [Self; 5] = [
        Self::Failure,
        Self::Retry,
        Self::Success,
        Self::Deadline,
        Self::Recovery,
    ];

    /// The word of DAG files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Retry => "retry",
            Self::Success => "success",
            Self::Deadline => "deadline",
            Self::Recovery => "recovery",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl FromStr for Event {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|event| event.as_str() == text)
            .ok_or(())
    }
}

/// A channel that is told, and its cool-down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'a> {
    /// The channel.
    pub channel: &'a str,
    /// How long others of the same kind wait after a message.
    pub cool_down: Duration,
}

impl Alerts {
    /// Whether nobody is told of anything.
    pub fn is_empty(&self) -> bool {
        self.no_success_for.is_none() && self.deadlines.is_empty() && self.notify.is_empty()
    }

    /// How often a run must succeed, in words.
    pub fn success_words(&self) -> Option<String> {
        self.no_success_for
            .map(|time| format!("at least every {}", pinwheel_tasks::duration::text(time)))
    }

    /// Who is told of an event of a run.
    pub fn of_run(&self, event: Event) -> Vec<Route<'_>> {
        self.routes(event, |notify| notify.tasks.is_empty())
    }

    /// Who is told of an event of a task. A retry is always a task's, and a deadline may be: who asks for these without
    /// naming tasks means every task.
    pub fn of_task(&self, event: Event, task: &TaskId) -> Vec<Route<'_>> {
        let of_all = match event {
            Event::Retry | Event::Deadline => true,
            Event::Failure | Event::Success | Event::Recovery => false,
        };
        self.routes(event, |notify| {
            notify.tasks.contains(task) || of_all && notify.tasks.is_empty()
        })
    }

    /// Whether anybody is told when this task succeeds.
    pub fn hears_success_of(&self, task: &TaskId) -> bool {
        self.notify.iter().any(|notify| {
            notify.tasks.contains(task)
                && notify.on.iter().any(|event| match event {
                    Event::Success | Event::Recovery => true,
                    Event::Failure | Event::Retry | Event::Deadline => false,
                })
        })
    }

    /// Each channel once, with the first entry's cool-down.
    fn routes(&self, event: Event, is_meant: impl Fn(&Notify) -> bool) -> Vec<Route<'_>> {
        let mut told = BTreeSet::new();
        self.notify
            .iter()
            .filter(|notify| notify.on.contains(&event) && is_meant(notify))
            .filter(|notify| told.insert(notify.to.as_str()))
            .map(|notify| Route {
                channel: &notify.to,
                cool_down: notify.cool_down,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str) -> TaskId {
        TaskId::new(name).unwrap()
    }

    fn notify(on: &[Event], to: &str, tasks: &[&str]) -> Notify {
        Notify {
            on: on.to_vec(),
            to: to.to_owned(),
            tasks: tasks.iter().map(|name| task(name)).collect(),
            cool_down: Duration::from_secs(300),
        }
    }

    fn channels(routes: &[Route<'_>]) -> Vec<String> {
        routes
            .iter()
            .map(|route| route.channel.to_owned())
            .collect()
    }

    #[test]
    fn a_channel_hears_of_one_event_once_and_of_tasks_only_when_it_asks() {
        let alerts = Alerts {
            notify: vec![
                notify(&[Event::Failure, Event::Retry], "ops", &[]),
                notify(&[Event::Failure], "ops", &[]),
                notify(&[Event::Failure, Event::Recovery], "team", &["load"]),
            ],
            ..Alerts::default()
        };
        assert_eq!(channels(&alerts.of_run(Event::Failure)), ["ops"]);
        assert_eq!(
            channels(&alerts.of_task(Event::Failure, &task("load"))),
            ["team"]
        );
        assert_eq!(
            channels(&alerts.of_task(Event::Failure, &task("other"))),
            [""; 0]
        );
        assert_eq!(
            channels(&alerts.of_task(Event::Retry, &task("other"))),
            ["ops"]
        );
        assert!(alerts.hears_success_of(&task("load")));
        assert!(!alerts.hears_success_of(&task("other")));
    }
}
