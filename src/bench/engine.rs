//! `pinwheel bench engine`: an engine in this process over a fresh database, one workload after the other.

use std::{process::Stdio, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, ValueEnum};
use pinwheel_scheduler::{
    engine::{self, Engine, Roles, SystemClock},
    model::{Dag, DagId, Params, RunId, RunKind},
    store::{Figures, HotShare, Keep, NewRun, Retention, Store, ToPublish},
};
use pinwheel_tasks::{Registry, light_kinds};
use serde::Serialize;
use sqlx::{Connection, Executor, PgConnection};

use super::{
    database::Database,
    workload::{Start, Workload},
};
use crate::{
    cli::output,
    failure::{Failure, Result},
    progress::say,
    settings::Settings,
    shutdown,
};

/// Arguments of `bench engine`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --database-url it starts an embedded Postgres with its defaults (fsync on) and takes it away afterwards; with it,
it makes a database of its own on that server and drops it at the end.

Each workload is run once to warm up, then measured as often as it says, and the run with the median wall time is
printed. `hop` is the time from the end of the last upstream task to the start of the task; for tick it is the time from
the tick to the start of the first task. A figure is worth something beside another one of the same machine and day.")]
pub(crate) struct Arguments {
    /// Only these workloads; may be given several times
    #[arg(long = "workload", value_name = "NAME")]
    workloads: Vec<Workload>,
    /// How many tasks run at once
    #[arg(long, default_value_t = 256, value_name = "N")]
    slots: usize,
    /// Put so many finished task instances into the tables first
    #[arg(long, default_value_t = 0, value_name = "N")]
    history: i64,
    /// Hold a snapshot open meanwhile, as a forgotten transaction of somebody else does
    #[arg(long)]
    held_snapshot: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    workloads: Vec<Line>,
    /// The share of updates that touched no index, by table.
    hot_share: std::collections::BTreeMap<String, f64>,
    history: i64,
    held_snapshot: bool,
    slots: usize,
}

/// One workload.
#[derive(Debug, Clone, Serialize)]
struct Line {
    name: String,
    tasks: i64,
    wall_ms: f64,
    tasks_per_s: f64,
    hop_p50_ms: Option<f64>,
    hop_p99_ms: Option<f64>,
    runs: i64,
    /// For `shell`: processes per second of a bare loop that starts and awaits them.
    #[serde(skip_serializing_if = "Option::is_none")]
    bare_per_s: Option<f64>,
}

pub(super) async fn run(settings: &Settings, arguments: Arguments) -> Result<()> {
    if arguments.slots == 0 {
        return Err(Failure::invalid("with 0 slots nothing would ever run"));
    }
    let stop = shutdown::token();
    let database = Database::make(settings).await?;
    let measured = tokio::select! {
        biased;
        () = stop.cancelled() => Err(Failure::failed("stopped before the end; nothing is left behind")),
        measured = measure(&database, &arguments) => measured,
    };
    database.drop().await?;
    let report = measured?;
    if arguments.json {
        output::json(&report)
    } else {
        output::text(&text(&report))
    }
}

async fn measure(database: &Database, arguments: &Arguments) -> Result<Report> {
    let store = Store::connect(&database.url).await?;
    store.migrate().await?;
    if arguments.history > 0 {
        add_history(&store, arguments.history).await?;
    }
    let engine = start(&store, arguments.slots).await?;
    let snapshot = if arguments.held_snapshot {
        Some(hold_snapshot(&database.url).await?)
    } else {
        None
    };
    let bench = Bench { store, engine };
    let chosen = if arguments.workloads.is_empty() {
        Workload::value_variants()
    } else {
        arguments.workloads.as_slice()
    };
    let mut lines = Vec::new();
    for workload in chosen {
        lines.push(bench.workload(*workload).await?);
    }
    drop(snapshot);
    let hot_share = bench.store.hot_shares().await?.iter().map(share).collect();
    bench.engine.stop_now();
    bench.engine.stop().await;
    Ok(Report {
        workloads: lines,
        hot_share,
        history: arguments.history,
        held_snapshot: arguments.held_snapshot,
        slots: arguments.slots,
    })
}

fn share(table: &HotShare) -> (String, f64) {
    let share = table.hot as f64 / (table.updates.max(1)) as f64;
    (table.table.clone(), (share * 1000.0).round() / 1000.0)
}

async fn start(store: &Store, slots: usize) -> Result<Engine> {
    let options = engine::Options {
        slots,
        grace: Duration::from_secs(1),
        // History that is added lies years back, and is to stay while others are measured beside it.
        retention: Retention {
            runs: Keep::Forever,
            ..Retention::default()
        },
        ..engine::Options::default()
    };
    let registry = Registry::new(light_kinds());
    let clock = Arc::new(SystemClock::new());
    Ok(Engine::start(store.clone(), registry, Roles::Both, options, clock).await?)
}

async fn add_history(store: &Store, tasks: i64) -> Result<()> {
    say(&format!("adding {tasks} finished task instances"));
    let mut dag = Dag::clone(&Workload::Chain.make(None)[0]);
    dag.id = DagId::new("history").expect("it is a name");
    publish(store, &[Arc::new(dag)]).await?;
    store.add_history("history", tasks).await?;
    Ok(())
}

/// The transaction ends when the connection is dropped.
async fn hold_snapshot(url: &str) -> Result<PgConnection> {
    let mut connection = PgConnection::connect(url).await?;
    connection
        .execute("begin isolation level repeatable read; select count(*) from run limit 1;")
        .await?;
    Ok(connection)
}

struct Bench {
    store: Store,
    engine: Engine,
}

impl Bench {
    async fn workload(&self, workload: Workload) -> Result<Line> {
        let dags = match workload.start() {
            Start::Triggered { .. } => {
                let dags = workload.make(None);
                publish(&self.store, &dags).await?;
                dags
            }
            Start::Ticked => Vec::new(),
        };
        let mut measured = Vec::new();
        for repetition in 0..=workload.repetitions() {
            // The large ones need no warming up: what was prepared for the small ones serves them.
            if repetition == 0 && workload.repetitions() == 1 {
                continue;
            }
            let what = if repetition == 0 {
                "warming up".to_owned()
            } else {
                format!("{repetition} of {}", workload.repetitions())
            };
            say(&format!("{}: {what}", workload.name()));
            let figures = self.once(workload, &dags).await?;
            if repetition > 0 {
                measured.push(figures);
            }
        }
        measured.sort_by(|one, other| one.wall_ms.total_cmp(&other.wall_ms));
        let median = measured.swap_remove(measured.len() / 2);
        let mut line = line(workload, &median);
        if workload == Workload::Shell {
            line.bare_per_s = Some(round(bare_loop(median.tasks).await?));
        }
        Ok(line)
    }

    async fn once(&self, workload: Workload, dags: &[Arc<Dag>]) -> Result<Figures> {
        let (before, now) = self.store.newest_run().await?;
        match workload.start() {
            Start::Triggered { runs } => self.trigger(dags, runs, now).await?,
            Start::Ticked => self.publish_due(workload).await?,
        }
        let wanted = i64::try_from(workload.runs()).unwrap_or(i64::MAX);
        let prefix = workload.prefix();
        self.wait_for(&prefix, before, wanted).await?;
        let figures = self.store.figures(&prefix, before).await?;
        if figures.unsuccessful > 0 {
            return Err(Failure::failed(format!(
                "{} of {} runs of `{}` did not succeed",
                figures.unsuccessful,
                figures.runs,
                workload.name()
            )));
        }
        Ok(figures)
    }

    async fn trigger(&self, dags: &[Arc<Dag>], runs: usize, now: DateTime<Utc>) -> Result<()> {
        let new = dags.iter().flat_map(|dag| {
            (0..runs).map(|number| NewRun {
                dag_id: dag.id.clone(),
                kind: RunKind::Manual,
                logical_date: Some(
                    now + TimeDelta::microseconds(i64::try_from(number).unwrap_or(0)),
                ),
                params: Params::new(),
                triggered_by: "bench".to_owned(),
            })
        });
        self.store.trigger_all(new.collect()).await?;
        self.engine.bell().ring();
        Ok(())
    }

    /// Publishes the DAGs with a tick that comes once all of them are there.
    async fn publish_due(&self, workload: Workload) -> Result<()> {
        let mut lead = TimeDelta::seconds(2)
            + TimeDelta::milliseconds(i64::try_from(workload.dags()).unwrap_or(0));
        loop {
            let (_, now) = self.store.newest_run().await?;
            let tick = whole_second(now + lead);
            publish(&self.store, &workload.make(Some(tick))).await?;
            self.engine.bell().ring();
            let (_, published) = self.store.newest_run().await?;
            if published + TimeDelta::milliseconds(500) < tick {
                return Ok(());
            }
            lead = lead * 2;
        }
    }

    async fn wait_for(&self, prefix: &str, after: RunId, wanted: i64) -> Result<()> {
        let mut pause = Duration::from_millis(10);
        loop {
            tokio::time::sleep(pause).await;
            if self.store.count_final_runs(prefix, after).await? >= wanted {
                return Ok(());
            }
            // Asking often would take the time that is measured.
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }
}

fn whole_second(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(at.timestamp() + 1, 0).unwrap_or(at)
}

async fn publish(store: &Store, dags: &[Arc<Dag>]) -> Result<()> {
    let sources: Vec<String> = dags
        .iter()
        .map(|dag| {
            serde_json::to_string(dag.as_ref())
                .expect("a definition has only string keys and finite numbers")
        })
        .collect();
    let files: Vec<ToPublish<'_>> = dags
        .iter()
        .zip(&sources)
        .map(|(dag, source)| ToPublish {
            file: dag.id.as_str(),
            source,
            dag,
        })
        .collect();
    store.publish_all(&files, TimeDelta::zero()).await?;
    Ok(())
}

/// Processes per second of the simplest loop that starts and awaits them.
async fn bare_loop(count: i64) -> Result<f64> {
    say("shell: a bare loop of as many processes");
    let looped = tokio::task::spawn_blocking(move || {
        let began = std::time::Instant::now();
        for _ in 0..count {
            std::process::Command::new("true")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
        }
        Ok::<_, std::io::Error>(count as f64 / began.elapsed().as_secs_f64())
    });
    looped
        .await
        .expect("the loop does not panic")
        .map_err(|error| Failure::failed("the program `true` cannot be started").because(error))
}

fn line(workload: Workload, figures: &Figures) -> Line {
    let is_ticked = workload.start() == Start::Ticked && figures.hop_p50_ms.is_none();
    let (p50, p99) = if is_ticked {
        (figures.lateness_p50_ms, figures.lateness_p99_ms)
    } else {
        (figures.hop_p50_ms, figures.hop_p99_ms)
    };
    Line {
        name: workload.name(),
        tasks: figures.tasks,
        wall_ms: round(figures.wall_ms),
        tasks_per_s: round(figures.tasks as f64 / (figures.wall_ms / 1000.0)),
        hop_p50_ms: p50.map(round),
        hop_p99_ms: p99.map(round),
        runs: figures.runs,
        bare_per_s: None,
    }
}

fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn text(report: &Report) -> String {
    let figure = |number: Option<f64>| {
        number.map_or_else(|| "-".to_owned(), |number| format!("{number:.2}"))
    };
    let table = output::columns(
        [
            "workload",
            "runs",
            "tasks",
            "wall ms",
            "tasks/s",
            "hop p50 ms",
            "hop p99 ms",
        ],
        report.workloads.iter().map(|line| {
            [
                line.name.clone(),
                line.runs.to_string(),
                line.tasks.to_string(),
                format!("{:.1}", line.wall_ms),
                format!("{:.0}", line.tasks_per_s),
                figure(line.hop_p50_ms),
                figure(line.hop_p99_ms),
            ]
        }),
    );
    let shares: Vec<_> = report
        .hot_share
        .iter()
        .map(|(table, share)| format!("{table} {:.0} %", share * 100.0))
        .collect();
    let mut text = format!("{table}\n\nHOT updates: {}", shares.join(", "));
    if let Some(bare) = report.workloads.iter().find_map(|line| line.bare_per_s) {
        text.push_str(&format!("\na bare loop of processes: {bare:.0} per second"));
    }
    text
}
