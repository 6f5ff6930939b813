//! `pinwheel runs`: what became of runs, and steering them.

use std::fmt::Write;

use clap::{Args, Subcommand, ValueEnum};
use pinwheel_scheduler::{
    model::{DagId, RunId, RunKind, RunState, TaskId, TaskState, schedule::DataInterval},
    store::{ClearRequest, ClearScope, ClearSelection, InstanceRow, RunFilter, RunRow},
};
use serde_json::json;

use super::{client, datasets, output};
use crate::{failure::Result, settings::Settings};

/// `pinwheel runs …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the newest runs
    List(List),
    /// Show one run: every task, its state and why
    Show(Show),
    /// End a run: tasks that run are stopped, the others never start
    Cancel(Cancel),
    /// Run tasks again: they and what depends on them go back to waiting
    #[command(after_help = "\
Examples:
  pinwheel runs clear 12 --failed             what failed, and everything downstream of it
  pinwheel runs clear 12 --task clean         one task and everything downstream of it
  pinwheel runs clear 12 --task clean --only  that task alone")]
    Clear(Clear),
}

/// Arguments of `runs list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only of this DAG
    #[arg(long, value_parser = client::dag_id, value_name = "ID")]
    dag: Option<DagId>,
    /// Only in this state; may be given several times
    #[arg(long = "state", value_enum)]
    states: Vec<State>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=500))]
    limit: i64,
    /// Only runs before this one
    #[arg(long, value_name = "RUN")]
    before: Option<RunId>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A state as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum State {
    Queued,
    Running,
    Success,
    Failed,
    Cancelled,
}

impl From<State> for RunState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Success => Self::Success,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
        }
    }
}

/// Arguments of `runs show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The run's number
    run: RunId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `runs cancel`.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The run's number
    run: RunId,
}

/// Arguments of `runs clear`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("selection").required(true).args(["tasks", "failed", "all"]))]
pub(crate) struct Clear {
    /// The run's number
    run: RunId,
    /// This task; may be given several times
    #[arg(long = "task", value_parser = client::task_id, value_name = "ID")]
    tasks: Vec<TaskId>,
    /// Every task that failed, was cancelled or could not run because of a failure above
    #[arg(long)]
    failed: bool,
    /// Every task
    #[arg(long)]
    all: bool,
    /// Not what is downstream of them
    #[arg(long)]
    only: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(crate) async fn run(self, settings: &Settings) -> Result<()> {
        match self {
            Self::List(arguments) => list(settings, arguments).await,
            Self::Show(arguments) => show(settings, &arguments).await,
            Self::Cancel(arguments) => cancel(settings, &arguments).await,
            Self::Clear(arguments) => clear(settings, arguments).await,
        }
    }
}

async fn list(settings: &Settings, arguments: List) -> Result<()> {
    let store = client::connect(settings).await?;
    let filter = RunFilter {
        dag_id: arguments.dag,
        states: arguments.states.into_iter().map(RunState::from).collect(),
        before: arguments.before,
        limit: arguments.limit,
    };
    let runs = store.runs(&filter).await?;
    if arguments.json {
        return output::json(&runs);
    }
    let rows = runs.iter().map(|run| {
        [
            run.run_id.to_string(),
            run.dag_id.to_string(),
            output::word(&run.state),
            output::word(&run.kind),
            output::time(run.logical_date),
            output::maybe_time(run.started_at),
            output::took(run.started_at, run.finished_at),
        ]
    });
    output::text(&output::columns(
        [
            "run",
            "dag",
            "state",
            "kind",
            "logical date",
            "started",
            "took",
        ],
        rows,
    ))
}

async fn show(settings: &Settings, arguments: &Show) -> Result<()> {
    let store = client::connect(settings).await?;
    let run = client::run(&store, arguments.run).await?;
    let instances = store.instances(arguments.run).await?;
    if arguments.json {
        let mut tasks = Vec::with_capacity(instances.len());
        for instance in &instances {
            let mut task = serde_json::to_value(instance).expect("a row has only text keys");
            task["output"] = json!(store.output(instance.instance_id).await?);
            tasks.push(task);
        }
        let mut shown = serde_json::to_value(&run).expect("a row has only text keys");
        shown["tasks"] = json!(tasks);
        if run.kind == RunKind::Dataset {
            shown["datasets"] = json!(store.events_of_run(run.run_id).await?);
        }
        return output::json(&shown);
    }
    let mut shown = description(&run, &instances);
    if run.kind == RunKind::Dataset {
        let events = store.events_of_run(run.run_id).await?;
        shown.push_str("\n\n");
        shown.push_str(&datasets::of_run(&events));
    }
    output::text(&shown)
}

/// A run and its tasks for people.
pub(crate) fn description(run: &RunRow, instances: &[InstanceRow]) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        writeln!(text, "{label:13} {value}").expect("a string takes every text");
    };
    line(
        "run",
        &format!(
            "{} of {} (version {})",
            run.run_id, run.dag_id, run.version_id
        ),
    );
    line("state", &output::word(&run.state));
    if let Some(because) = &run.cancelled_because {
        line("why", because);
    }
    line("logical date", &output::time(run.logical_date));
    line(
        "data interval",
        &DataInterval {
            start: run.data_interval_start,
            end: run.data_interval_end,
        }
        .to_string(),
    );
    line(
        "triggered by",
        &format!("{} ({})", run.triggered_by, output::word(&run.kind)),
    );
    line("took", &output::took(run.started_at, run.finished_at));
    if !run.params.is_empty() {
        line("params", &json!(run.params).to_string());
    }
    let tasks = instances.iter().map(|instance| {
        [
            instance.task_id.to_string(),
            instance.kind.clone(),
            state(instance),
            format!("{}/{}", instance.tries, instance.tries_allowed),
            output::took(instance.started_at, instance.finished_at),
            reason(instance),
        ]
    });
    text.push('\n');
    text.push_str(&output::columns(
        ["task", "kind", "state", "tries", "took", "why"],
        tasks,
    ));
    text
}

fn state(instance: &InstanceRow) -> String {
    match instance.sleep_reason {
        Some(reason) if instance.state == TaskState::Sleeping => {
            format!("sleeping ({})", output::word(&reason))
        }
        _ => output::word(&instance.state),
    }
}

fn reason(instance: &InstanceRow) -> String {
    let note = instance
        .sleep_note
        .as_ref()
        .or(instance.reason.as_ref())
        .cloned()
        .unwrap_or_default();
    match instance.wake_at {
        Some(wake_at) if instance.state == TaskState::Sleeping => {
            format!("{note}; goes on at {}", output::time(wake_at))
        }
        _ => note,
    }
}

async fn cancel(settings: &Settings, arguments: &Cancel) -> Result<()> {
    let store = client::connect(settings).await?;
    let state = store.cancel_run(arguments.run, &client::actor()).await?;
    client::ring(&store).await;
    output::text(&format!(
        "run {} is {}",
        arguments.run,
        output::word(&state)
    ))
}

async fn clear(settings: &Settings, arguments: Clear) -> Result<()> {
    let store = client::connect(settings).await?;
    let selection = if arguments.all {
        ClearSelection::WholeRun
    } else if arguments.failed {
        ClearSelection::Failed
    } else {
        ClearSelection::Tasks(arguments.tasks)
    };
    let scope = if arguments.only {
        ClearScope::Only
    } else {
        ClearScope::WithDownstream
    };
    let cleared = store
        .clear(ClearRequest {
            run_id: arguments.run,
            selection,
            scope,
            actor: client::actor(),
        })
        .await?;
    client::ring(&store).await;
    if arguments.json {
        return output::json(&cleared);
    }
    let tasks: Vec<_> = cleared.tasks.iter().map(TaskId::as_str).collect();
    output::text(&format!(
        "run {}: {} will run again",
        arguments.run,
        tasks.join(", ")
    ))
}
