//! `pinwheel runs`: what became of runs, and steering them.

use std::fmt::Write;

use clap::{Args, Subcommand, ValueEnum};
use pinwheel_scheduler::{
    model::{DagId, RunId, RunKind, RunState, TaskId, TaskState, schedule::DataInterval},
    store::{
        ClearRequest, ClearScope, ClearSelection, ClearVersion, Cleared, InstanceRow, MarkRequest,
        MarkSelection, MarkedAs, Moved, NoteRow, NoteText, RunFilter, RunRow,
    },
};
use serde_json::json;

use super::{client, datasets, output};
use crate::{
    failure::{Failure, Result},
    settings::Settings,
};

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
  pinwheel runs clear 12 --task clean --only  that task alone
  pinwheel runs clear 12 --task measure --item 3
                                              one item of a mapped task and everything downstream of it
  pinwheel runs clear 12 --task clean --upstream --dry-run
                                              what would run again, with what is above it
  pinwheel runs clear 12 --failed --version latest
                                              by the DAG file as it is now")]
    Clear(Clear),
    /// Say how tasks, or a run, ended: what runs is stopped first, and what depends on it follows
    #[command(after_help = "\
Examples:
  pinwheel runs mark 12 success --task load   what could not run because of its failure runs now
  pinwheel runs mark 12 success --task measure --item 3
                                              one item of a mapped task alone
  pinwheel runs mark 12 failed --all          the run: what runs is stopped, what has not begun is skipped")]
    Mark(Mark),
    /// Write a note beside a run or one of its tasks; an empty text takes it away
    Note(Note),
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
    /// One item of the task, by its place in the list from 0
    #[arg(
        long,
        visible_alias = "map-index",
        requires = "tasks",
        conflicts_with_all = ["failed", "all"],
        value_name = "N"
    )]
    item: Option<i32>,
    /// Every task that failed, was cancelled or could not run because of a failure above
    #[arg(long)]
    failed: bool,
    /// Every task
    #[arg(long)]
    all: bool,
    /// Not what is downstream of them
    #[arg(long)]
    only: bool,
    /// Also what is upstream of them
    #[arg(long)]
    upstream: bool,
    /// By which version of the DAG they run
    #[arg(long, value_enum, default_value_t = Version::Same)]
    version: Version,
    /// Only say what would run again
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A version as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Version {
    /// The one that the run is pinned to
    Same,
    /// The DAG file as it is now; the run moves to it, task by task
    Latest,
}

/// Arguments of `runs mark`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("marked").required(true).args(["tasks", "all"]))]
pub(crate) struct Mark {
    /// The run's number
    run: RunId,
    /// How it ended
    #[arg(value_enum)]
    state: Ended,
    /// This task; may be given several times
    #[arg(long = "task", value_parser = client::task_id, value_name = "ID")]
    tasks: Vec<TaskId>,
    /// One item of the task, by its place in the list from 0
    #[arg(
        long,
        visible_alias = "map-index",
        requires = "tasks",
        conflicts_with = "all",
        value_name = "N"
    )]
    item: Option<i32>,
    /// The run itself
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How something ended, as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Ended {
    Success,
    Failed,
}

/// Arguments of `runs note`.
#[derive(Debug, Args)]
pub(crate) struct Note {
    /// The run's number
    run: RunId,
    /// The text, at most 1000 characters
    text: String,
    /// Beside this task
    #[arg(long, value_parser = client::task_id, value_name = "ID")]
    task: Option<TaskId>,
    /// Beside this item of a mapped task
    #[arg(long, visible_alias = "item", requires = "task", value_name = "INDEX")]
    map_index: Option<i32>,
}

impl Command {
    pub(crate) async fn run(self, settings: &Settings) -> Result<()> {
        match self {
            Self::List(arguments) => list(settings, arguments).await,
            Self::Show(arguments) => show(settings, &arguments).await,
            Self::Cancel(arguments) => cancel(settings, &arguments).await,
            Self::Clear(arguments) => clear(settings, arguments).await,
            Self::Mark(arguments) => mark(settings, arguments).await,
            Self::Note(arguments) => note(settings, &arguments).await,
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
    let notes = store.notes(arguments.run).await?;
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
        shown["notes"] = json!(notes);
        return output::json(&shown);
    }
    let mut text = description(&run, &instances);
    if run.kind == RunKind::Dataset {
        let events = store.events_of_run(run.run_id).await?;
        text.push_str("\n\n");
        text.push_str(&datasets::of_run(&events));
    }
    if let Some(stuck) = store.why_stuck(arguments.run).await? {
        let name = name_at(&instances, &stuck.task_id, stuck.map_index);
        write!(text, "\n{name}: {}\n", stuck.sentence).expect("a string takes every text");
    }
    for note in &notes {
        writeln!(text, "\n{}", written(note, &instances)).expect("a string takes every text");
    }
    output::text(&text)
}

/// The task's id, with the name or the index of a mapped item.
fn name(instance: &InstanceRow) -> String {
    let task_id = &instance.task_id;
    match (&instance.item_name, instance.map_index) {
        (Some(name), 0..) => format!("{task_id}[{}]", output::name(name)),
        (None, index @ 0..) => format!("{task_id}[{index}]"),
        (_, ..0) => task_id.to_string(),
    }
}

/// [`name`] of one that is known by its place.
fn name_at(instances: &[InstanceRow], task_id: &TaskId, map_index: i32) -> String {
    instances
        .iter()
        .find(|instance| instance.task_id == *task_id && instance.map_index == map_index)
        .map_or_else(|| task_id.to_string(), name)
}

/// A note for people.
fn written(note: &NoteRow, instances: &[InstanceRow]) -> String {
    let about = match &note.task_id {
        Some(task_id) => {
            let map_index = note.map_index.unwrap_or(-1);
            format!(" on {}", name_at(instances, task_id, map_index))
        }
        None => String::new(),
    };
    format!(
        "note{about} by {} at {}:\n  {}",
        note.written_by,
        output::time(note.written_at),
        note.note.replace('\n', "\n  ")
    )
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
    if let Some(reason) = &run.reason {
        line("why", reason);
    }
    if !run.params.is_empty() {
        line("params", &json!(run.params).to_string());
    }
    let tasks = instances.iter().map(|instance| {
        [
            name(instance),
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
        match (arguments.item, arguments.tasks.as_slice()) {
            (Some(map_index), [task]) => ClearSelection::Item {
                task: task.clone(),
                map_index,
            },
            (Some(_), _) => return Err(item_of_many()),
            (None, _) => ClearSelection::Tasks(arguments.tasks),
        }
    };
    let request = ClearRequest {
        run_id: arguments.run,
        selection,
        scope: ClearScope::reaching(arguments.upstream, !arguments.only),
        version: match arguments.version {
            Version::Same => ClearVersion::Same,
            Version::Latest => ClearVersion::Latest,
        },
        actor: client::actor(),
    };
    let cleared = if arguments.dry_run {
        store.preview_clear(&request).await?
    } else {
        let cleared = store.clear(request).await?;
        client::ring(&store).await;
        cleared
    };
    if arguments.json {
        return output::json(&cleared);
    }
    if arguments.dry_run {
        return output::text(&plan(arguments.run, &cleared));
    }
    let mut text = format!(
        "run {}: {} will run again",
        arguments.run,
        names(&cleared.tasks)
    );
    if let Some(moved) = &cleared.moved {
        text.push('\n');
        text.push_str(&journey(moved));
    }
    output::text(&text)
}

fn item_of_many() -> Failure {
    Failure::invalid("`--item` is of one task").hint("give one `--task`")
}

/// What a clear would do, for people.
fn plan(run: RunId, cleared: &Cleared) -> String {
    let mut text = format!(
        "run {run}: {} would run again; nothing was changed\n",
        match cleared.tasks.len() {
            1 => "1 task".to_owned(),
            many => format!("{many} tasks"),
        }
    );
    if let Some(moved) = &cleared.moved {
        text.push_str(&journey(moved));
        text.push('\n');
    }
    text.push('\n');
    let rows = cleared.instances.iter().map(|instance| {
        let item = if instance.map_index < 0 {
            String::new()
        } else {
            format!("[{}]", instance.map_index)
        };
        [
            format!("{}{item}", instance.task_id),
            output::word(&instance.state),
            instance.tries.to_string(),
        ]
    });
    text.push_str(&output::columns(["task", "state", "tries"], rows));
    text
}

/// How a run moves to another version, for people.
fn journey(moved: &Moved) -> String {
    let mut text = format!(
        "it moves from version {} to version {}",
        moved.from, moved.to
    );
    if !moved.added.is_empty() {
        write!(text, "; new: {}", names(&moved.added)).expect("a string takes every text");
    }
    if !moved.removed.is_empty() {
        write!(
            text,
            "; not in that version, so they stay as they are: {}",
            names(&moved.removed)
        )
        .expect("a string takes every text");
    }
    text
}

fn names(tasks: &[TaskId]) -> String {
    let tasks: Vec<_> = tasks.iter().map(TaskId::as_str).collect();
    tasks.join(", ")
}

async fn mark(settings: &Settings, arguments: Mark) -> Result<()> {
    let store = client::connect(settings).await?;
    let selection = if arguments.all {
        MarkSelection::WholeRun
    } else {
        match (arguments.item, arguments.tasks.as_slice()) {
            (Some(map_index), [task]) => MarkSelection::Item {
                task: task.clone(),
                map_index,
            },
            (Some(_), _) => return Err(item_of_many()),
            (None, _) => MarkSelection::Tasks(arguments.tasks),
        }
    };
    let marked = store
        .mark(MarkRequest {
            run_id: arguments.run,
            selection,
            marked: match arguments.state {
                Ended::Success => MarkedAs::Success,
                Ended::Failed => MarkedAs::Failed,
            },
            actor: client::actor(),
        })
        .await?;
    client::ring(&store).await;
    if arguments.json {
        return output::json(&marked);
    }
    let mut text = format!(
        "run {} is {}",
        arguments.run,
        output::word(&marked.run_state)
    );
    if !marked.tasks.is_empty() {
        write!(text, "; marked: {}", names(&marked.tasks)).expect("a string takes every text");
    }
    if !marked.decided_anew.is_empty() {
        write!(text, "; decided anew: {}", names(&marked.decided_anew))
            .expect("a string takes every text");
    }
    output::text(&text)
}

async fn note(settings: &Settings, arguments: &Note) -> Result<()> {
    let store = client::connect(settings).await?;
    let text = NoteText::new(&arguments.text).ok_or_else(|| {
        Failure::invalid(format!(
            "the note has {} characters, or control characters among them",
            arguments.text.chars().count()
        ))
        .hint(format!("at most {} are kept", NoteText::LONGEST))
    })?;
    let task = arguments
        .task
        .as_ref()
        .map(|task| (task, arguments.map_index.unwrap_or(-1)));
    store
        .set_note(arguments.run, task, &text, &client::actor())
        .await?;
    client::ring(&store).await;
    output::text("noted")
}
