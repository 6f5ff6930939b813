//! `pinwheel dags`: DAG files and the DAGs made of them.

use std::{fmt::Write, path::PathBuf, time::Duration};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use pinwheel_scheduler::{
    engine::Changes,
    model::{
        Catchup, Dag, DagId, Overlap, ParamType, Params, RunId, RunKind, RunState, Schedule,
        dag_file, schedule,
    },
    store::{self, InstanceRow, NewRun, Paused, RunRow, Store},
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{client, logical_date, output};
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
    /// Print the next runs of a DAG by its schedule: what each works on, and where the clock changes
    #[command(after_help = "\
Examples:
  pinwheel dags next pinterest_daily
  pinwheel dags next dags/my_dag.toml --count 10    a file, with nothing running
  pinwheel dags next pinterest_daily --from 2026-03-27T00:00:00Z --json")]
    Next(Next),
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
    /// Run a DAG file once in this process, without a server or a database
    #[command(after_help = "\
Examples:
  pinwheel dags test dags/my_dag.toml
  pinwheel dags test dags/my_dag.toml --date 2026-01-31 --param full=true
  pinwheel dags test dags/my_dag.toml --mock land=success --output land='{\"records\": 3}'
  pinwheel dags test dags/my_dag.toml --mock choose=branch:small,large --json

Retries follow at once; pools, queues and the run before play no part.
Exits with 1 when the run failed.")]
    Test(super::dags_test::Test),
    /// Add a DAG file to the DAG folder
    New(super::init::New),
    /// Show what a task's templates become, without running anything; needs nothing running
    #[command(after_help = "\
Examples:
  pinwheel dags render dags/pinterest_daily.toml clean --date 2026-01-31 --output land='{\"manifest\": \"s3://lake/m.json\"}'
  PINWHEEL_VAR_REGION=eu pinwheel dags render dags/examples/variables.toml show

Variables and connections come from the environment; secrets are shown as ***.")]
    Render(super::render::Render),
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

/// Arguments of `dags next`.
#[derive(Debug, Args)]
pub(crate) struct Next {
    /// The DAG, or a DAG file
    #[arg(value_name = "ID|FILE")]
    dag: String,
    /// How many
    #[arg(long, default_value_t = 5, value_parser = super::schedule::count)]
    count: usize,
    /// The instant after which to look, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    from: Option<DateTime<Utc>>,
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
    /// The logical date: a day, or a time in RFC 3339 [default: now]
    #[arg(long, visible_alias = "date", value_name = "DATE")]
    logical_date: Option<String>,
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
            .map(|instance| {
                let task = match instance.map_index {
                    index if index < 0 => instance.task_id.to_string(),
                    index => format!("{}[{index}]", instance.task_id),
                };
                (task, json!(instance.state))
            })
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
            Self::Next(arguments) => next(settings, &arguments).await,
            Self::Trigger(arguments) => trigger(settings, arguments).await,
            Self::Pause(arguments) => set_paused(settings, &arguments.dag, Paused::Paused).await,
            Self::Unpause(arguments) => set_paused(settings, &arguments.dag, Paused::Active).await,
            Self::Test(arguments) => super::dags_test::test(settings, arguments).await,
            Self::New(arguments) => super::init::new_dag(settings, &arguments).await,
            Self::Render(arguments) => super::render::run(settings, &arguments).await,
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
        let skipped = store.skipped_ticks(&dag.dag_id, 5).await?;
        return output::json(
            &json!({ "dag": dag, "definition": *definition, "skipped_ticks": skipped }),
        );
    }
    output::text(&description(&dag, &definition))?;
    let skipped = store.skipped_ticks(&dag.dag_id, 5).await?;
    if skipped.is_empty() {
        return Ok(());
    }
    let rows = skipped.iter().map(|row| {
        [
            output::time(row.first_tick),
            output::time(row.last_tick),
            row.ticks.to_string(),
            format!(
                "{} of at most {} runs were open",
                row.open_runs, row.max_active_runs
            ),
        ]
    });
    output::text(&format!(
        "\nticks that made no run\n{}",
        output::columns(["from", "to", "ticks", "why"], rows)
    ))
}

/// When the next run is made and what it works on.
fn next_run(dag: &store::DagRow, definition: &Dag) -> String {
    let upcoming = dag.upcoming(definition, Utc::now(), 1);
    match (dag.next_fire_at, upcoming.first()) {
        (Some(at), Some((planned, _))) if planned.fires_at == at => {
            format!("{}, on {}", output::time(at), planned.interval)
        }
        (at, _) => output::maybe_time(at),
    }
}

/// What the file says around the schedule, as far as it differs from the defaults.
fn timing(dag: &Dag) -> Vec<(&'static str, String)> {
    let text = pinwheel_tasks::duration::text;
    let catchup = (dag.catchup != Catchup::None).then(|| {
        let window = dag
            .catchup_window
            .map(|window| format!(", up to {} back", text(window)))
            .unwrap_or_default();
        format!("{}{window}", dag.catchup.as_str())
    });
    let overlap = match dag.overlap {
        Overlap::Queue => None,
        Overlap::Skip => Some("skip: a tick makes no run while as many are open as may be"),
        Overlap::Latest => Some("latest: only the newest waiting run is kept"),
    };
    [
        ("start", dag.start.map(output::time)),
        ("end", dag.end.map(output::time)),
        ("catchup", catchup),
        (
            "jitter",
            dag.jitter.map(|most| format!("up to {}", text(most))),
        ),
        ("overlap", overlap.map(str::to_owned)),
    ]
    .into_iter()
    .filter_map(|(label, value)| Some((label, value?)))
    .collect()
}

/// The updates after which it runs.
fn awaited(dag: &Dag) -> Option<String> {
    let set = dag.datasets.as_ref()?;
    Some(format!("updates of {}", set.describe()))
}

/// When it runs, in words: by its schedule, after updates, or by hand.
pub(crate) fn when_it_runs(dag: &Dag) -> String {
    match (&dag.schedule, awaited(dag)) {
        (Some(schedule), None) => schedule.describe(),
        (Some(schedule), Some(updates)) => {
            format!("{}, and after {updates}", schedule.describe())
        }
        (None, Some(updates)) => format!("runs after {updates}"),
        (None, None) => "runs by hand".to_owned(),
    }
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
    if let Some(updates) = awaited(definition) {
        line("runs after", &updates);
    }
    line("next run", &next_run(dag, definition));
    for (label, value) in timing(definition) {
        line(label, &value);
    }
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

async fn next(settings: &Settings, arguments: &Next) -> Result<()> {
    let from = arguments.from.unwrap_or_else(Utc::now);
    let is_file = std::path::Path::new(&arguments.dag)
        .extension()
        .is_some_and(|extension| extension == "toml");
    if is_file {
        let path = PathBuf::from(&arguments.dag);
        let dag = super::check::load_one(&path, &settings.dags_folder).await?;
        let past = schedule::Past {
            last_tick: None,
            since: from,
            watched_since: from,
        };
        let runs = dag
            .timetable()
            .map(|timetable| timetable.upcoming(&past, from, arguments.count))
            .unwrap_or_default();
        return print_next(&dag, None, &runs, arguments.json);
    }
    let id = client::dag_id(&arguments.dag).map_err(Failure::invalid)?;
    let store = client::connect(settings).await?;
    let row = known(&store, &id).await?;
    let definition = store.definition(row.version_id).await?;
    let runs = row.upcoming(&definition, from, arguments.count);
    print_next(&definition, Some(&row), &runs, arguments.json)
}

fn print_next(
    dag: &Dag,
    row: Option<&store::DagRow>,
    runs: &[(schedule::Planned, schedule::Occurrence)],
    as_json: bool,
) -> Result<()> {
    if as_json {
        let runs: Vec<_> = runs
            .iter()
            .map(|(planned, tick)| {
                json!({
                    "logical_date": planned.interval.logical_date(),
                    "data_interval_start": planned.interval.start,
                    "data_interval_end": planned.interval.end,
                    "fires_at": planned.fires_at,
                    "local": tick.local.to_rfc3339(),
                    "clock_change": tick.mark.map(|mark| mark.to_string()),
                })
            })
            .collect();
        return output::json(&json!({
            "dag_id": dag.id,
            "schedule": dag.schedule.as_ref().map(Schedule::text),
            "schedule_words": dag.schedule.as_ref().map(Schedule::describe),
            "paused": row.map(|row| row.paused),
            "next_runs": runs,
        }));
    }
    let Some(schedule) = &dag.schedule else {
        return output::text(&format!(
            "{} has no schedule: it {}",
            dag.id,
            when_it_runs(dag)
        ));
    };
    output::text(&format!("{}: {}", dag.id, schedule.describe()))?;
    match row {
        Some(row) if !row.present => {
            return output::text("its file is gone, so it gets no more runs");
        }
        Some(row) if row.paused => {
            output::text("it is paused: none of these runs is made until it goes on")?;
        }
        Some(_) | None => {}
    }
    if runs.is_empty() {
        return output::text("no tick is left");
    }
    let rows = runs.iter().map(|(planned, tick)| {
        [
            output::time(planned.fires_at),
            tick.local.format("%a %Y-%m-%d %H:%M:%S %Z").to_string(),
            planned.interval.to_string(),
            tick.mark.map(|mark| mark.to_string()).unwrap_or_default(),
        ]
    });
    output::text(&output::columns(
        ["fires at", "local tick", "works on", "clock change"],
        rows,
    ))
}

async fn set_paused(settings: &Settings, dag: &DagId, paused: Paused) -> Result<()> {
    let store = client::connect(settings).await?;
    store.set_paused(dag, paused, &client::actor()).await?;
    client::ring(&store).await;
    output::text(&match paused {
        Paused::Paused => format!(
            "{dag} is paused: no runs are made by its schedule, and those that are made by hand wait"
        ),
        Paused::Active => format!("{dag} is active"),
    })
}

async fn trigger(settings: &Settings, arguments: Trigger) -> Result<()> {
    let store = client::connect(settings).await?;
    let dag = known(&store, &arguments.dag).await?;
    let definition = store.definition(dag.version_id).await?;
    let params = read_params(&definition, &arguments.params)?;
    let logical_date = arguments
        .logical_date
        .as_deref()
        .map(|given| logical_date::instant(&definition, "--logical-date", given))
        .transpose()?;
    // Armed before the run exists, so that no change is missed.
    let mut changes = Changes::listen(&store).await?;
    let run_id = store
        .trigger(NewRun {
            dag_id: arguments.dag.clone(),
            kind: RunKind::Manual,
            logical_date,
            params,
            triggered_by: client::actor(),
        })
        .await?;
    client::ring(&store).await;
    if dag.paused {
        eprintln!(
            "{id} is paused: run {run_id} waits until `pinwheel dags unpause {id}`",
            id = arguments.dag
        );
    }

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

pub(crate) async fn known(store: &Store, id: &DagId) -> Result<store::DagRow> {
    if let Some(dag) = store.dag(id).await? {
        return Ok(dag);
    }
    Err(store.unknown_dag(id.clone()).await?.into())
}

/// Reads `name=value` by the type that the DAG declares. What it does not declare is passed on as text, for the store
/// to refuse with the names there are.
pub(crate) fn read_params(dag: &Dag, given: &[String]) -> Result<Params> {
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
