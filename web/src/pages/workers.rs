//! Workers: who lives, how loaded it is, what it runs, and which queues nobody serves.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use pinwheel_scheduler::{
    model::WorkerId,
    store::{ExecutionRow, WorkerRow, WorkerScope, WorkerState},
};

use super::{Layout, regions_page, view::Unserved};
use crate::{
    WebState,
    failure::Failure,
    format::{Badge, Elapsed, When, bytes, cores, count, worker_badge},
    live::{self, Html, Live, Region, Seen},
};

/// Tasks shown below one worker.
const TASKS: usize = 50;
/// With more workers at work than this, their tasks are folded away.
const UNFOLDED: usize = 8;

#[derive(Template)]
#[template(path = "workers.html")]
struct WorkersRegion {
    summary: String,
    unserved: Vec<Unserved>,
    workers: Vec<Line>,
    /// Those that run something.
    busy: Vec<Busy>,
    unfolded: bool,
}

/// A process in the list.
struct Line {
    worker: i64,
    name: String,
    version: String,
    badge: Badge,
    roles: &'static str,
    queues: String,
    labels: Vec<String>,
    /// 0 shows none: it runs no tasks, or is gone and has left none.
    slots: i32,
    running: usize,
    load: String,
    memory: String,
    started: When,
    seen: When,
    /// When it was asked to stop, or when its lease ended or ends.
    since: Option<(&'static str, When)>,
}

/// A worker and what it runs.
struct Busy {
    worker: i64,
    name: String,
    running: String,
    tasks: Vec<Running>,
    more: usize,
}

/// A task that runs.
struct Running {
    address: String,
    task: String,
    dag: String,
    run: i64,
    tries: String,
    pool: String,
    queue: String,
    since: Elapsed,
}

impl From<&ExecutionRow> for Running {
    fn from(row: &ExecutionRow) -> Self {
        let item = if row.map_index < 0 {
            String::new()
        } else {
            format!("?map={}", row.map_index)
        };
        Self {
            address: format!("/runs/{}/tasks/{}{item}", row.run_id, row.task_id),
            task: if row.map_index < 0 {
                row.task_id.to_string()
            } else {
                format!("{} [{}]", row.task_id, row.map_index)
            },
            dag: row.dag_id.to_string(),
            run: row.run_id.0,
            tries: format!("{} of {}", row.tries, row.tries_allowed),
            pool: row.pool.clone(),
            queue: row.queue.clone(),
            since: Elapsed::between(row.started_at, None),
        }
    }
}

impl Line {
    fn new(worker: &WorkerRow, running: usize) -> Self {
        let since = match worker.state {
            WorkerState::Alive => None,
            WorkerState::Stopping => Some(("asked to stop", worker.stopping_at)),
            WorkerState::Lost => Some(("lease ended", Some(worker.lease_until))),
            WorkerState::Ended => Some(("ended", worker.ended_at)),
        };
        let is_gone = match worker.state {
            WorkerState::Alive | WorkerState::Stopping => false,
            WorkerState::Lost | WorkerState::Ended => true,
        };
        let mut load = Vec::new();
        if let Some(used) = worker.load.cpu_cores {
            load.push(cores(used));
        }
        if let Some(average) = worker.load.load_average {
            load.push(format!("load {average:.2}"));
        }
        Self {
            worker: worker.worker_id.0,
            name: worker.name.clone(),
            version: worker.version.clone(),
            badge: worker_badge(worker.state),
            roles: match (worker.is_scheduler, worker.works()) {
                (true, true) => "scheduler, worker",
                (true, false) => "scheduler",
                (false, _) => "worker",
            },
            queues: worker.queues.join(", "),
            labels: worker
                .labels
                .iter()
                .map(|(name, value)| format!("{name} = {value}"))
                .collect(),
            slots: if is_gone && running == 0 {
                0
            } else {
                worker.slots
            },
            running,
            load: load.join(" · "),
            memory: worker.load.memory_bytes.map(bytes).unwrap_or_default(),
            started: When::relative(Some(worker.started_at)),
            seen: When::relative(Some(worker.seen_at)),
            since: since.map(|(word, at)| (word, When::relative(at))),
        }
    }
}

/// `GET /workers`
pub(crate) async fn page(State(state): State<WebState>) -> Result<Response, Failure> {
    let live = Live::new("/workers/events", regions(state).await?);
    regions_page(Layout::new("workers", "Workers"), live)
}

/// `GET /workers/events`
pub(crate) async fn events(
    State(state): State<WebState>,
    Query(seen): Query<Seen>,
) -> Result<Response, Failure> {
    live::follow(&state.clone(), &seen, move || regions(state.clone()))
}

async fn regions(state: WebState) -> Result<Vec<Region>, Failure> {
    let workers = state.store.processes(WorkerScope::Recent).await?;
    let mut held: BTreeMap<WorkerId, Vec<ExecutionRow>> = BTreeMap::new();
    for execution in state.store.executions().await? {
        held.entry(execution.worker_id).or_default().push(execution);
    }
    let unserved = state.store.unserved_queues().await?;
    let region = region(
        &workers,
        &held,
        unserved.iter().map(Unserved::from).collect(),
    );
    Ok(vec![Region {
        name: "workers",
        html: Html::of(&region)?,
    }])
}

fn region(
    workers: &[WorkerRow],
    held: &BTreeMap<WorkerId, Vec<ExecutionRow>>,
    unserved: Vec<Unserved>,
) -> WorkersRegion {
    let tasks_of = |worker: &WorkerRow| {
        held.get(&worker.worker_id)
            .map_or(&[] as &[_], Vec::as_slice)
    };
    let busy: Vec<Busy> = workers
        .iter()
        .filter(|worker| !tasks_of(worker).is_empty())
        .map(|worker| {
            let tasks = tasks_of(worker);
            Busy {
                worker: worker.worker_id.0,
                name: worker.name.clone(),
                running: count(tasks.len(), "task", "tasks"),
                tasks: tasks.iter().take(TASKS).map(Running::from).collect(),
                more: tasks.len().saturating_sub(TASKS),
            }
        })
        .collect();
    WorkersRegion {
        summary: summary(workers),
        unserved,
        workers: workers
            .iter()
            .map(|worker| Line::new(worker, tasks_of(worker).len()))
            .collect(),
        unfolded: busy.len() <= UNFOLDED,
        busy,
    }
}

fn summary(workers: &[WorkerRow]) -> String {
    let number = |state| {
        workers
            .iter()
            .filter(|worker| worker.state == state)
            .count()
    };
    let words: Vec<String> = WorkerState::ALL
        .into_iter()
        .map(|state| (number(state), state.as_str()))
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{number} {word}"))
        .collect();
    if words.is_empty() {
        "None is running: tasks wait, and nothing starts by its schedule.".to_owned()
    } else {
        format!("{}.", words.join(", "))
    }
}
