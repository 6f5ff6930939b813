//! A validated DAG: what a file means once every check has passed. Immutable; runs are pinned to one.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{DagId, Schedule, TaskId, TriggerRule, retry::RetryRules, trigger_rule};

/// A validated DAG.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dag {
    /// Its id.
    pub id: DagId,
    /// One sentence for people.
    pub description: String,
    /// When it runs by itself; `None` is only by hand.
    pub schedule: Option<Schedule>,
    /// No scheduled logical date before this.
    pub start: Option<DateTime<Utc>>,
    /// What becomes of ticks that passed while nothing was watching.
    pub catchup: Catchup,
    /// How many runs may be running at once.
    pub max_active_runs: u32,
    /// How many tasks of one run may be running at once, as in Airflow 3; `None` is no limit of the DAG's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_active_tasks: Option<u32>,
    /// The longest a run may take; then it fails, and what is unfinished is skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// The params a run takes.
    pub params: BTreeMap<String, Param>,
    /// All tasks in topological order; an *ordinal* is an index into this list.
    pub tasks: Vec<Task>,
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
    /// The kind's own table as the file has it, templates not rendered.
    pub with: Map<String, Value>,
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
            && task.queue_timeout.is_none()
            && trigger_rule::runs_if_all_ok(task.trigger_rule, total)
    }

    /// The task of that id, with its ordinal.
    pub fn task(&self, id: &str) -> Option<(usize, &Task)> {
        self.tasks
            .iter()
            .enumerate()
            .find(|(_, task)| task.id.as_str() == id)
    }
}
