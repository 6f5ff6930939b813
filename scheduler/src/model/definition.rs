//! A validated DAG: what a file means once every check has passed. Immutable; runs are pinned to one.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Alerts, DagId, DatasetExpression, DatasetName, Schedule, TaskId, TriggerRule,
    retry::RetryRules,
    schedule::{Jitter, Timetable},
    trigger_rule,
};

/// A validated DAG.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dag {
    /// Its id.
    pub id: DagId,
    /// One sentence for people.
    pub description: String,
    /// When it runs by itself; `None` is only by hand.
    pub schedule: Option<Schedule>,
    /// Which datasets it waits for; it runs whenever the set is complete, besides its schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datasets: Option<DatasetExpression>,
    /// No scheduled logical date before this.
    pub start: Option<DateTime<Utc>>,
    /// No scheduled logical date after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<DateTime<Utc>>,
    /// What becomes of ticks that passed while nothing was watching.
    pub catchup: Catchup,
    /// Of those, the ones that passed longer ago are not made up for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catchup_window: Option<Duration>,
    /// Ticks fire later by at most so much, each DAG by another time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Duration>,
    /// What becomes of a tick while `max_active_runs` runs are open.
    #[serde(default)]
    pub overlap: Overlap,
    /// How many runs may be running at once.
    pub max_active_runs: u32,
    /// How many tasks of one run may be running at once, as in Airflow 3; `None` is no limit of the DAG's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_active_tasks: Option<u32>,
    /// What people are told.
    #[serde(default, skip_serializing_if = "Alerts::is_empty")]
    pub alerts: Alerts,
    /// The longest a run may take; then it fails, and what is unfinished is skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// The params a run takes.
    pub params: BTreeMap<String, Param>,
    /// What the file says of groups of tasks, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, Group>,
    /// All tasks in topological order; an *ordinal* is an index into this list.
    pub tasks: Vec<Task>,
}

/// A group of tasks: those whose id begins with its name and a dot. Shown as one, cleared together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// One sentence for people.
    pub description: String,
}

/// What becomes of ticks that passed while nothing was watching.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Catchup {
    /// They are skipped.
    #[default]
    None,
    /// The last one runs.
    Latest,
    /// Each of them runs.
    All,
}

impl Catchup {
    /// The word for it in a DAG file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Latest => "latest",
            Self::All => "all",
        }
    }
}

/// What becomes of a tick that comes due while as many runs as `max_active_runs` allows are queued or running.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// Its run waits for its turn.
    #[default]
    Queue,
    /// It makes no run, and that is recorded.
    Skip,
    /// Its run waits, and scheduled runs that waited before it are cancelled.
    Latest,
}

impl Overlap {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Queue, Self::Skip, Self::Latest];

    /// The word for it in a DAG file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Skip => "skip",
            Self::Latest => "latest",
        }
    }
}

/// One task of a DAG.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its id, unique in the DAG.
    pub id: TaskId,
    /// The kind's name, known to the registry when the file was checked.
    pub kind: String,
    /// Direct upstream tasks, by ordinal, ascending.
    pub upstream: Vec<usize>,
    /// Direct downstream tasks, by ordinal, ascending.
    pub downstream: Vec<usize>,
    /// When it runs, given what became of its upstream tasks.
    pub trigger_rule: TriggerRule,
    /// Tries beyond the first.
    pub retries: u32,
    /// The pause before a retry.
    pub retry_delay: Duration,
    /// How pauses grow, and which failures are tried again.
    #[serde(default, skip_serializing_if = "RetryRules::is_default")]
    pub retry: RetryRules,
    /// The longest a try may run.
    pub timeout: Option<Duration>,
    /// The longest it may be queued before it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_timeout: Option<Duration>,
    /// The pool whose slots it takes.
    pub pool: String,
    /// The queue a worker must serve to run it.
    pub queue: String,
    /// Higher is claimed first within a pool.
    pub priority: i32,
    /// How many slots of the pool it takes.
    pub slots: u32,
    /// Its failure does not fail the run.
    pub allow_failure: bool,
    /// What it must not run at the same time with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// What decides about it besides its trigger rule.
    #[serde(default, skip_serializing_if = "Flow::is_plain")]
    pub flow: Flow,
    /// The datasets it updates when it succeeds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outlets: Vec<DatasetName>,
    /// The kind's own table as the file has it, templates not rendered.
    pub with: Map<String, Value>,
}

/// What decides about a task besides its trigger rule, and how many instances it has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flow {
    /// A template that must be true when a try starts; the task is skipped otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// It prepares what the tasks below it need.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub setup: bool,
    /// It takes away what a setup has prepared.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub teardown: bool,
    /// By ordinal: the setups that a teardown is for; for any other task those in whose scope it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub setups: Vec<usize>,
    /// It waits until the same task of the run before has succeeded or was skipped.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub depends_on_previous: bool,
    /// It has one instance for each item of a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreach: Option<Foreach>,
}

/// One instance for each item of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Foreach {
    /// A list, or a template that gives one.
    pub list: Value,
    /// A template for the name of an item, which may read `item` and `item_index`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_name: Option<String>,
    /// How many items of a run may be running at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_active_items: Option<u32>,
}

impl Flow {
    /// Whether the trigger rule alone decides, and there is one instance.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

impl Task {
    /// The groups it is in, outermost first: `a` and `a.b` for `a.b.c`.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        let id = self.id.as_str();
        id.match_indices('.').map(move |(dot, _)| &id[..dot])
    }

    /// Whether it is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups().any(|one| one == group)
    }
}

/// A limit on task instances, of whatever DAG and run, whose key is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    /// The key; a template over params, dates and ids, rendered when the task becomes ready.
    pub key: String,
    /// How many with the same key may be running at once.
    pub limit: u32,
}

/// One param of a DAG.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// The type a value must have.
    #[serde(rename = "type")]
    pub param_type: ParamType,
    /// The value of a run that gives none; `None` makes the param required.
    pub default: Option<Value>,
    /// One sentence for people.
    pub description: String,
    /// The smallest number allowed.
    pub minimum: Option<f64>,
    /// The largest number allowed.
    pub maximum: Option<f64>,
    /// A regular expression the whole text must match.
    pub pattern: Option<String>,
    /// The only values allowed; empty allows all.
    #[serde(rename = "enum")]
    pub choices: Vec<Value>,
}

/// The type of a param.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ParamType {
    /// Text.
    String,
    /// A whole number of 64 bits.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A list of anything.
    List,
    /// A table of anything.
    Table,
}

/// The params of one run, checked.
pub type Params = Map<String, Value>;

/// A param that a run cannot be made with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("param `{param}`: {message}")]
pub struct ParamsError {
    /// The param.
    pub param: String,
    /// What is wrong with it.
    pub message: String,
}

impl Dag {
    /// Whether a task of this DAG runs as soon as its last upstream task has succeeded, and not before, stands behind no
    /// gate and may be queued for ever: then the statement that settles that one promotes it.
    pub fn runs_if_all_ok(&self, task: &Task) -> bool {
        let total = u32::try_from(task.upstream.len()).unwrap_or(u32::MAX);
        total > 0
            && self.max_active_tasks.is_none()
            && task.concurrency.is_none()
            && self.counts_alone(task)
            && !task.flow.depends_on_previous
            && task.flow.foreach.is_none()
            && task
                .upstream
                .iter()
                .all(|above| self.tasks[*above].flow.foreach.is_none())
            && task.queue_timeout.is_none()
            && trigger_rule::runs_if_all_ok(task.trigger_rule, total)
    }

    /// When it runs by itself; `None` is only by hand.
    pub fn timetable(&self) -> Option<Timetable<'_>> {
        Some(Timetable {
            schedule: self.schedule.as_ref()?,
            start: self.start,
            end: self.end,
            catchup: self.catchup,
            catchup_window: self.catchup_window,
            jitter: self.jitter.map(|most| Jitter {
                name: self.id.as_str(),
                most,
            }),
        })
    }

    /// When it runs by itself, in words; `None` is only by hand.
    pub fn runs_when(&self) -> Option<String> {
        let by_time = self.schedule.as_ref().map(Schedule::describe);
        let by_datasets = self
            .datasets
            .as_ref()
            .map(|set| format!("after updates of {}", set.describe()));
        let parts: Vec<String> = by_time.into_iter().chain(by_datasets).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The task of that id, with its ordinal.
    pub fn task(&self, id: &str) -> Option<(usize, &Task)> {
        self.tasks
            .iter()
            .enumerate()
            .find(|(_, task)| task.id.as_str() == id)
    }
}
