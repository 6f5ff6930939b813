//! Views that several pages share.

use pinwheel_scheduler::store::{
    DagRow, InstanceRow, RunRow, RunSummary, UnservedQueue, WorkerRow,
};

use crate::format::{Badge, Elapsed, When, kind_word, run_badge};

/// A run in a list.
#[derive(Debug, Clone)]
pub(crate) struct RunLine {
    pub(crate) run: i64,
    pub(crate) dag: String,
    pub(crate) badge: Badge,
    pub(crate) kind: &'static str,
    pub(crate) logical: When,
    pub(crate) started: When,
    pub(crate) took: Elapsed,
    pub(crate) by: String,
}

impl From<&RunRow> for RunLine {
    fn from(run: &RunRow) -> Self {
        Self {
            run: run.run_id.0,
            dag: run.dag_id.to_string(),
            badge: run_badge(run.state),
            kind: kind_word(run.kind),
            logical: When::exact(Some(run.logical_date)),
            started: When::relative(run.started_at.or(Some(run.created_at))),
            took: Elapsed::between(run.started_at, run.finished_at),
            by: run.triggered_by.clone(),
        }
    }
}

/// The newest run of a DAG.
#[derive(Debug, Clone)]
pub(crate) struct LastRun {
    pub(crate) run: i64,
    pub(crate) badge: Badge,
    pub(crate) logical: When,
}

impl From<&RunSummary> for LastRun {
    fn from(run: &RunSummary) -> Self {
        Self {
            run: run.run_id.0,
            badge: run_badge(run.state),
            logical: When::exact(Some(run.logical_date)),
        }
    }
}

/// A DAG in a list.
#[derive(Debug, Clone)]
pub(crate) struct DagLine {
    pub(crate) dag: String,
    pub(crate) file: String,
    pub(crate) description: String,
    pub(crate) schedule: String,
    /// The schedule as the file says it, when it differs from the words.
    pub(crate) schedule_text: String,
    pub(crate) paused: bool,
    pub(crate) present: bool,
    pub(crate) next: When,
    pub(crate) last: Option<LastRun>,
    pub(crate) open: i64,
}

impl DagLine {
    /// `words` is the schedule in words.
    pub(crate) fn new(dag: &DagRow, words: Option<String>) -> Self {
        let text = dag.schedule.clone().unwrap_or_default();
        let schedule = words.unwrap_or_else(|| {
            if text.is_empty() {
                "only by hand".to_owned()
            } else {
                text.clone()
            }
        });
        Self {
            dag: dag.dag_id.to_string(),
            file: dag.file.clone(),
            description: dag.description.clone(),
            schedule_text: if text == schedule {
                String::new()
            } else {
                text
            },
            schedule,
            paused: dag.paused,
            present: dag.present,
            next: When::relative(dag.next_fire_at.filter(|_| !dag.paused && dag.present)),
            last: dag.last_run.as_ref().map(LastRun::from),
            open: dag.open_runs,
        }
    }
}

/// A worker process.
#[derive(Debug, Clone)]
pub(crate) struct WorkerLine {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) queues: String,
    pub(crate) running: i32,
    pub(crate) slots: i32,
    pub(crate) started: When,
}

impl From<&WorkerRow> for WorkerLine {
    fn from(worker: &WorkerRow) -> Self {
        Self {
            name: worker.name.clone(),
            version: worker.version.clone(),
            queues: worker.queues.join(", "),
            running: worker.running,
            slots: worker.slots,
            started: When::relative(Some(worker.started_at)),
        }
    }
}

/// A queue that no worker serves, and what waits in it.
#[derive(Debug, Clone)]
pub(crate) struct Unserved {
    pub(crate) queue: String,
    pub(crate) tasks: String,
}

impl From<&UnservedQueue> for Unserved {
    fn from(row: &UnservedQueue) -> Self {
        let verb = if row.ready == 1 {
            "task waits"
        } else {
            "tasks wait"
        };
        Self {
            queue: row.queue.clone(),
            tasks: format!("{} {verb}", row.ready),
        }
    }
}

/// The address of a task instance's page.
pub(crate) fn task_address(instance: &InstanceRow) -> String {
    let mapped = if instance.map_index < 0 {
        String::new()
    } else {
        format!("?map={}", instance.map_index)
    };
    format!(
        "/runs/{}/tasks/{}{mapped}",
        instance.run_id, instance.task_id
    )
}
