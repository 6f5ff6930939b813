//! `pinwheel workers`: who runs tasks, how loaded it is, and what it runs.

use std::fmt::Write;

use clap::{Args, Subcommand};
use pinwheel_scheduler::{
    model::WorkerId,
    store::{ExecutionRow, Load, Store, UnservedQueue, WorkerRow, WorkerScope, WorkerState},
};

use super::{client, output};
use crate::{
    failure::{Failure, Result},
    settings::Settings,
};

/// `pinwheel workers …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List workers and schedulers, and queues that nobody serves
    List(List),
    /// Show one worker and what it runs
    Show(Show),
}

/// Arguments of `workers list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Also those that were lost or ended more than an hour ago, 500 at most
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `workers show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Its number, or its name: then the newest of that name
    #[arg(value_name = "ID|NAME")]
    worker: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(crate) async fn run(self, settings: &Settings) -> Result<()> {
        match self {
            Self::List(arguments) => list(settings, &arguments).await,
            Self::Show(arguments) => show(settings, &arguments).await,
        }
    }
}

async fn list(settings: &Settings, arguments: &List) -> Result<()> {
    let store = client::connect(settings).await?;
    let scope = if arguments.all {
        WorkerScope::All
    } else {
        WorkerScope::Recent
    };
    let workers = store.processes(scope).await?;
    if arguments.json {
        return output::json(&workers);
    }
    output::text(&table(&workers))?;
    for queue in store.unserved_queues().await? {
        output::text(&format!("\n{}", unserved(&queue)))?;
    }
    Ok(())
}

async fn show(settings: &Settings, arguments: &Show) -> Result<()> {
    let store = client::connect(settings).await?;
    let worker = find(&store, &arguments.worker).await?;
    let executions = store.executions_of(worker.worker_id).await?;
    if arguments.json {
        let mut shown = serde_json::to_value(&worker).expect("a row has only text keys");
        shown["executions"] = serde_json::json!(executions);
        return output::json(&shown);
    }
    output::text(&description(&worker, &executions))
}

/// By number, or by name: those that live come first, then the newest.
async fn find(store: &Store, asked: &str) -> Result<WorkerRow> {
    if let Ok(id) = asked.parse::<WorkerId>() {
        return Ok(store.process(id).await?);
    }
    let all = store.processes(WorkerScope::All).await?;
    all.into_iter()
        .find(|worker| worker.name == asked)
        .ok_or_else(|| {
            Failure::invalid(format!("unknown worker `{asked}`"))
                .hint("`pinwheel workers list --all` shows all there were")
        })
}

fn table(workers: &[WorkerRow]) -> String {
    let rows = workers.iter().map(|worker| {
        [
            worker.worker_id.to_string(),
            worker.name.clone(),
            worker.state.as_str().to_owned(),
            roles(worker).to_owned(),
            or_dash(worker.queues.join(", ")),
            if worker.works() {
                format!("{}/{}", worker.running, worker.slots)
            } else {
                "-".to_owned()
            },
            or_dash(load(worker.load)),
            output::time(worker.seen_at),
            worker.version.clone(),
            labels(worker),
        ]
    });
    output::columns(
        [
            "id", "name", "state", "roles", "queues", "running", "load", "seen", "version",
            "labels",
        ],
        rows,
    )
}

/// A worker and what it runs, for people.
fn description(worker: &WorkerRow, executions: &[ExecutionRow]) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        writeln!(text, "{label:14} {value}").expect("a string takes every text");
    };
    line("worker", &format!("{} {}", worker.worker_id, worker.name));
    let since = match worker.state {
        WorkerState::Alive => None,
        WorkerState::Stopping => worker.stopping_at,
        WorkerState::Lost => Some(worker.lease_until),
        WorkerState::Ended => worker.ended_at,
    };
    line(
        "state",
        &match since {
            None => worker.state.as_str().to_owned(),
            Some(since) => format!("{} since {}", worker.state.as_str(), output::time(since)),
        },
    );
    line("roles", roles(worker));
    line("version", &worker.version);
    if worker.works() {
        line("queues", &worker.queues.join(", "));
        line("slots", &worker.slots.to_string());
    }
    if !worker.labels.is_empty() {
        line("labels", &labels(worker));
    }
    line("load", &or_dash(load(worker.load)));
    line("started", &output::time(worker.started_at));
    line("last heartbeat", &output::time(worker.seen_at));
    if worker.ended_at.is_none() {
        line("lease until", &output::time(worker.lease_until));
    }
    if executions.is_empty() {
        text.push_str("\nit runs nothing");
        return text;
    }
    let rows = executions.iter().map(|execution| {
        [
            execution.dag_id.to_string(),
            execution.run_id.to_string(),
            if execution.map_index < 0 {
                execution.task_id.to_string()
            } else {
                format!("{} [{}]", execution.task_id, execution.map_index)
            },
            format!("{}/{}", execution.tries, execution.tries_allowed),
            execution.pool.clone(),
            output::maybe_time(execution.started_at),
        ]
    });
    text.push('\n');
    text.push_str(&output::columns(
        ["dag", "run", "task", "try", "pool", "since"],
        rows,
    ));
    text
}

fn unserved(queue: &UnservedQueue) -> String {
    let verb = if queue.ready == 1 {
        "task waits"
    } else {
        "tasks wait"
    };
    format!(
        "{} {verb} in queue `{name}`, which no worker serves: start one with `[worker] queues = [\"{name}\"]`",
        queue.ready,
        name = queue.queue
    )
}

fn roles(worker: &WorkerRow) -> &'static str {
    match (worker.is_scheduler, worker.works()) {
        (true, true) => "scheduler, worker",
        (true, false) => "scheduler",
        (false, _) => "worker",
    }
}

fn labels(worker: &WorkerRow) -> String {
    let words: Vec<String> = worker
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    words.join(" ")
}

/// What is known of the load: cores in use, the machine's load average, resident memory.
fn load(load: Load) -> String {
    let mut words = Vec::new();
    if let Some(cores) = load.cpu_cores {
        words.push(format!("{cores:.2} cores"));
    }
    if let Some(average) = load.load_average {
        words.push(format!("load {average:.2}"));
    }
    if let Some(bytes) = load.memory_bytes {
        words.push(format!("{} MiB", bytes / (1024 * 1024)));
    }
    words.join(", ")
}

fn or_dash(text: String) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::{DateTime, TimeDelta, Utc};
    use pinwheel_scheduler::model::{DagId, InstanceId, RunId, TaskId};

    use super::*;

    fn noon() -> DateTime<Utc> {
        "2026-03-01T12:00:00Z".parse().expect("an instant")
    }

    fn worker(state: WorkerState) -> WorkerRow {
        WorkerRow {
            worker_id: WorkerId(7),
            name: "host-1-4711".to_owned(),
            version: "1.2.3".to_owned(),
            state,
            is_scheduler: false,
            queues: vec!["default".to_owned(), "gpu".to_owned()],
            labels: BTreeMap::from([("zone".to_owned(), "eu-1".to_owned())]),
            slots: 8,
            running: 1,
            load: Load {
                load_average: Some(0.5),
                memory_bytes: Some(52_428_800),
                cpu_cores: Some(1.25),
            },
            started_at: noon(),
            seen_at: noon() + TimeDelta::seconds(60),
            lease_until: noon() + TimeDelta::seconds(90),
            stopping_at: (state == WorkerState::Stopping).then(|| noon() + TimeDelta::seconds(58)),
            ended_at: None,
        }
    }

    fn execution() -> ExecutionRow {
        ExecutionRow {
            worker_id: WorkerId(7),
            instance_id: InstanceId(1),
            dag_id: DagId::new("pins").expect("a name"),
            run_id: RunId(17),
            task_id: TaskId::new("clean").expect("a name"),
            map_index: -1,
            tries: 1,
            tries_allowed: 3,
            started_at: Some(noon()),
            pool: "cpu".to_owned(),
            queue: "default".to_owned(),
        }
    }

    #[test]
    fn people_read_who_works() {
        let scheduler = WorkerRow {
            worker_id: WorkerId(6),
            is_scheduler: true,
            slots: 0,
            queues: vec![],
            labels: BTreeMap::new(),
            load: Load::default(),
            ..worker(WorkerState::Alive)
        };
        insta::assert_snapshot!(table(&[worker(WorkerState::Stopping), scheduler]), @"
        ID  NAME         STATE     ROLES      QUEUES        RUNNING  LOAD                           SEEN                  VERSION  LABELS
        7   host-1-4711  stopping  worker     default, gpu  1/8      1.25 cores, load 0.50, 50 MiB  2026-03-01 12:01:00Z  1.2.3    zone=eu-1
        6   host-1-4711  alive     scheduler  -             -        -                              2026-03-01 12:01:00Z  1.2.3
        ");
    }

    #[test]
    fn people_read_what_one_runs() {
        insta::assert_snapshot!(description(&worker(WorkerState::Stopping), &[execution()]), @"
        worker         7 host-1-4711
        state          stopping since 2026-03-01 12:00:58Z
        roles          worker
        version        1.2.3
        queues         default, gpu
        slots          8
        labels         zone=eu-1
        load           1.25 cores, load 0.50, 50 MiB
        started        2026-03-01 12:00:00Z
        last heartbeat 2026-03-01 12:01:00Z
        lease until    2026-03-01 12:01:30Z

        DAG   RUN  TASK   TRY  POOL  SINCE
        pins  17   clean  1/3  cpu   2026-03-01 12:00:00Z
        ");
        insta::assert_snapshot!(description(&worker(WorkerState::Alive), &[]), @"
        worker         7 host-1-4711
        state          alive
        roles          worker
        version        1.2.3
        queues         default, gpu
        slots          8
        labels         zone=eu-1
        load           1.25 cores, load 0.50, 50 MiB
        started        2026-03-01 12:00:00Z
        last heartbeat 2026-03-01 12:01:00Z
        lease until    2026-03-01 12:01:30Z

        it runs nothing
        ");
    }

    #[test]
    fn a_queue_that_nobody_serves_comes_with_what_to_do() {
        let queue = UnservedQueue {
            queue: "gpu".to_owned(),
            ready: 3,
        };
        assert_eq!(
            unserved(&queue),
            "3 tasks wait in queue `gpu`, which no worker serves: start one with `[worker] queues = [\"gpu\"]`"
        );
    }
}
