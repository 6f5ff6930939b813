//! `pinwheel dags`: DAG files and the DAGs made of them.

use std::{fmt::Write, path::PathBuf, time::Duration};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use pinwheel_scheduler::{
    engine::Changes,
    model::{Dag, DagId, ParamType, Params, RunId, RunKind, RunState, dag_file},
    store::{self, InstanceRow, NewRun, Paused, RunRow, Store},
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{client, output};
use crate::{
    failure::{Failure, Result},
    progress::Progress,
    registry,
    settings::Settings,
};

/// `pinwheel dags …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List all DAGs with their schedules and last runs
    List(List),
    /// Check DAG files: every error of every file, with its place; needs nothing running
    #[command(after_help = "\
Examples:
  pinwheel dags check                     every file below dags/
  pinwheel dags check dags/my_dag.toml    one file

Exits with 2 when a file has errors.")]
    Check(Check),
    /// Show one DAG: its tasks, params and schedule
    Show(Show),
    /// Run a DAG now
    #[command(after_help = "\
Examples:
  pinwheel dags trigger pinterest_daily --wait
  pinwheel dags trigger pinterest_daily --param min_followers=1000 --wait --json

Exits with 1 when it waited and the run did not succeed.")]
    Trigger(Trigger),
    /// Stop making scheduled runs of a DAG
    Pause(One),
    /// Make scheduled runs of a DAG again
    Unpause(One),
    /// Print the JSON Schema of DAG files, for editors
    Schema,
}

/// Arguments of `dags list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `dags check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// A file or a folder [default: the DAG folder]
    path: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `dags show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The DAG
    #[arg(value_parser = client::dag_id, value_name = "ID")]
    dag: DagId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `dags pause` and `dags unpause`.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The DAG
    #[arg(value_parser = client::dag_id, value_name = "ID")]
    dag: DagId,
}

/// Arguments of `dags trigger`.
#[derive(Debug, Args)]
pub(crate) struct Trigger {
    /// The DAG
    #[arg(value_parser = client::dag_id, value_name = "ID")]
    dag: DagId,
    /// A param of the run; may be given several times
    #[arg(long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// The logical date, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    logical_date: Option<DateTime<Utc>>,
    /// Wait until the run has ended
    #[arg(long)]
    wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A run and the state of each of its tasks, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct RunWithTasks {
    run_id: RunId,
    dag_id: DagId,
    state: RunState,
    kind: RunKind,
    logical_date: DateTime<Utc>,
    params: Params,
    /// In topological order.
    tasks: Map<String, Value>,
}

impl RunWithTasks {
    pub(crate) fn new(run: RunRow, instances: &[InstanceRow]) -> Self {
        let tasks = instances
            .iter()
            .map(|instance| (instance.task_id.to_string(), json!(instance.state)))
            .collect();
        Self {
            run_id: run.run_id,
            dag_id: run.dag_id,
            state: run.state,
            kind: run.kind,
            logical_date: run.logical_date,
            params: run.params,
            tasks,
        }
    }
}

impl Command {
    pub(crate) async fn run(self, settings: &Settings) -> Result<()> {
        match self {
            Self::List(arguments) => list(settings, &arguments).await,
            Self::Check(arguments) => check(settings, &arguments).await,
            Self::Show(arguments) => show(settings, &arguments).await,
            Self::Trigger(arguments) => trigger(settings, arguments).await,
            Self::Pause(arguments) => set_paused(settings, &arguments.dag, Paused::Paused).await,
            Self::Unpause(arguments) => set_paused(settings, &arguments.dag, Paused::Active).await,
            Self::Schema => output::json(&dag_file::schema(
                &registry::for_checks(&settings.dags_folder).await?,
            )),
        }
    }
}

async fn list(settings: &Settings, arguments: &List) -> Result<()> {
    let store = client::connect(settings).await?;
    let dags = store.dags().await?;
    if arguments.json {
        return output::json(&dags);
    }
    let rows = dags.iter().map(|dag| {
        let state = match (dag.present, dag.paused) {
            (false, _) => "file is gone",
            (true, true) => "paused",
            (true, false) => "active",
        };
        let last = dag.last_run.as_ref().map_or_else(
            || "-".to_owned(),
            |run| format!("{} ({})", output::word(&run.state), run.run_id),
        );
        [
            dag.dag_id.to_string(),
            state.to_owned(),
            dag.schedule.clone().unwrap_or_else(|| "by hand".to_owned()),
            output::maybe_time(dag.next_fire_at),
            last,
            dag.description.clone(),
        ]
    });
    output::text(&output::columns(
        [
            "dag",
            "state",
            "schedule",
            "next",
            "last run",
            "description",
        ],
        rows,
    ))?;
    let errors = store.file_errors().await?;
    for error in &errors {
        output::text(&format!("\n{}", error.report))?;
    }
    Ok(())
}

async fn check(settings: &Settings, arguments: &Check) -> Result<()> {
    let path = arguments.path.as_deref().unwrap_or(&settings.dags_folder);
    let checked = super::check::check(path, &settings.dags_folder).await?;
    if arguments.json {
        output::json(&checked.as_json())?;
    } else {
        checked.report()?;
    }
    checked.verdict()
}

async fn show(settings: &Settings, arguments: &Show) -> Result<()> {
    let store = client::connect(settings).await?;
    let dag = known(&store, &arguments.dag).await?;
    let definition = store.definition(dag.version_id).await?;
    if arguments.json {
        return output::json(&json!({ "dag": dag, "definition": *definition }));
    }
    output::text(&description(&dag, &definition))
}

fn description(dag: &store::DagRow, definition: &Dag) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        writeln!(text, "{label:12} {value}").expect("a string takes every text");
    };
    line("dag", dag.dag_id.as_str());
    line("description", &dag.description);
    line(
        "file",
        &format!("{} (version {})", dag.file, dag.version_id),
    );
    match &definition.schedule {
        Some(schedule) => line(
            "schedule",
            &format!("{} ({})", schedule.text(), schedule.describe()),
        ),
        None if definition.datasets.is_some() => {}
        None => line("schedule", "none: it runs by hand"),
    }
    if let Some(set) = &definition.datasets {
        line("runs after", &format!("updates of {}", set.describe()));
    }
    line("next run", &output::maybe_time(dag.next_fire_at));
    line("paused", if dag.paused { "yes" } else { "no" });
    let tasks = definition.tasks.iter().map(|task| {
        let upstream: Vec<_> = task
            .upstream
            .iter()
            .map(|ordinal| definition.tasks[*ordinal].id.as_str())
            .collect();
        [
            task.id.to_string(),
            task.kind.clone(),
            upstream.join(", "),
            output::word(&task.trigger_rule),
            task.retries.to_string(),
            task.pool.clone(),
        ]
    });
    text.push('\n');
    text.push_str(&output::columns(
        ["task", "kind", "after", "trigger rule", "retries", "pool"],
        tasks,
    ));
    if !definition.params.is_empty() {
        let params = definition.params.iter().map(|(name, param)| {
            let default = param
                .default
                .as_ref()
                .map_or_else(|| "required".to_owned(), Value::to_string);
            [
                name.clone(),
                output::word(&param.param_type),
                default,
                param.description.clone(),
            ]
        });
        text.push_str("\n\n");
        text.push_str(&output::columns(
            ["param", "type", "default", "description"],
            params,
        ));
    }
    text
}

async fn set_paused(settings: &Settings, dag: &DagId, paused: Paused) -> Result<()> {
    let store = client::connect(settings).await?;
    store.set_paused(dag, paused, &client::actor()).await?;
    client::ring(&store).await;
    output::text(&match paused {
        Paused::Paused => format!("{dag} is paused: it gets no scheduled runs"),
        Paused::Active => format!("{dag} is active"),
    })
}

async fn trigger(settings: &Settings, arguments: Trigger) -> Result<()> {
    let store = client::connect(settings).await?;
    let dag = known(&store, &arguments.dag).await?;
    let definition = store.definition(dag.version_id).await?;
    let params = read_params(&definition, &arguments.params)?;
    // Armed before the run exists, so that no change is missed.
    let mut changes = Changes::listen(&store).await?;
    let run_id = store
        .trigger(NewRun {
            dag_id: arguments.dag.clone(),
            kind: RunKind::Manual,
            logical_date: arguments.logical_date,
            params,
            triggered_by: client::actor(),
        })
        .await?;
    client::ring(&store).await;

    let run = if arguments.wait {
        let progress = Progress::start(&format!("run {run_id} of {}", arguments.dag));
        let run = wait_until_final(&store, run_id, &mut changes, |instances| {
            progress.tasks(instances)
        })
        .await?;
        progress.end();
        run
    } else {
        client::run(&store, run_id).await?
    };
    let instances = store.instances(run_id).await?;
    let state = run.state;
    if arguments.json {
        output::json(&RunWithTasks::new(run, &instances))?;
    } else {
        output::text(&super::runs::description(&run, &instances))?;
        if !arguments.wait {
            output::text(&format!("\nfollow it with `pinwheel runs show {run_id}`"))?;
        }
    }
    verdict(arguments.wait, run_id, state)
}

fn verdict(waited: bool, run_id: RunId, state: RunState) -> Result<()> {
    if !waited || state == RunState::Success {
        return Ok(());
    }
    Err(Failure::failed(format!("run {run_id} ended as `{}`", output::word(&state)))
        .hint(format!("`pinwheel runs show {run_id}` says which task and why; `pinwheel logs {run_id} TASK` prints its log")))
}

/// Waits for the end of a run, telling `look` the tasks after every change.
pub(crate) async fn wait_until_final(
    store: &Store,
    run_id: RunId,
    changes: &mut Changes,
    look: impl Fn(&[InstanceRow]),
) -> Result<RunRow> {
    loop {
        let run = client::run(store, run_id).await?;
        look(&store.instances(run_id).await?);
        if run.state.is_final() {
            return Ok(run);
        }
        // A notification can be lost with its connection; looking now and then costs nothing.
        let _look_anyway = tokio::time::timeout(Duration::from_secs(2), changes.next()).await;
    }
}

async fn known(store: &Store, id: &DagId) -> Result<store::DagRow> {
    if let Some(dag) = store.dag(id).await? {
        return Ok(dag);
    }
    let dags = store.dags().await?;
    let nearest = dags
        .into_iter()
        .map(|dag| {
            (
                strsim::damerau_levenshtein(dag.dag_id.as_str(), id.as_str()),
                dag.dag_id,
            )
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, dag)| dag);
    Err(store::Error::UnknownDag {
        dag_id: id.clone(),
        nearest,
    }
    .into())
}

/// Reads `name=value` by the type that the DAG declares. What it does not declare is passed on as text, for the store
/// to refuse with the names there are.
fn read_params(dag: &Dag, given: &[String]) -> Result<Params> {
    given.iter().map(|text| read_param(dag, text)).collect()
}

fn read_param(dag: &Dag, given: &str) -> Result<(String, Value)> {
    let Some((name, text)) = given.split_once('=') else {
        return Err(Failure::invalid(format!("`--param {given}` has no `=`"))
            .hint("write --param NAME=VALUE"));
    };
    let Some(param) = dag.params.get(name) else {
        return Ok((name.to_owned(), Value::from(text)));
    };
    let refused = |expected: &str| {
        Failure::invalid(format!(
            "param `{name}` of `{}` takes {expected}, found `{text}`",
            dag.id
        ))
    };
    let value = match param.param_type {
        ParamType::String => Value::from(text),
        ParamType::Integer => {
            Value::from(text.parse::<i64>().map_err(|_| refused("a whole number"))?)
        }
        ParamType::Number => {
            let number: f64 = text.parse().map_err(|_| refused("a number"))?;
            serde_json::Number::from_f64(number)
                .map(Value::Number)
                .ok_or_else(|| refused("a finite number"))?
        }
        ParamType::Boolean => Value::from(
            text.parse::<bool>()
                .map_err(|_| refused("`true` or `false`"))?,
        ),
        ParamType::List => {
            json_of(text, Value::is_array).ok_or_else(|| refused("a list written as JSON"))?
        }
        ParamType::Table => {
            json_of(text, Value::is_object).ok_or_else(|| refused("a table written as JSON"))?
        }
    };
    Ok((name.to_owned(), value))
}

fn json_of(text: &str, is_right: impl Fn(&Value) -> bool) -> Option<Value> {
    serde_json::from_str(text).ok().filter(is_right)
}
