//! `pinwheel demo`: the whole pipeline on real pins, and whether every part of it tells the same story.
//!
//! It posts and triggers as any user would, and reads what the parts say they did: the emulator what was accepted, the
//! topic its offsets, the tasks their outputs, the dataset and the live table their rows. It counts nothing itself.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use pinwheel_scheduler::{
    engine::Changes,
    model::{DagId, RunId, RunKind, RunState},
    store::{NewRun, RunFilter, RunRow, Store},
};
use pinwheel_streaming::{
    emulate::{self, EmulateOptions, malformed_messages, produce_malformed},
    live,
};
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{self, DemoArguments, output, query},
    failure::{Failure, Result},
    progress::{Progress, say},
    roles::PINS_TOPIC,
    settings::Settings,
    shutdown,
    standalone::{self, Standalone},
};

const DAG: &str = "pinterest_daily";
const DATASET: &str = "pins";
/// How many of the pins are posted a second time.
const POSTED_AGAIN: usize = 40;
/// Far beyond what the pipeline takes on a slow machine.
const RUN_PATIENCE: Duration = Duration::from_secs(300);
const LIVE_PATIENCE: Duration = Duration::from_secs(60);
const BROKER_PATIENCE: Duration = Duration::from_secs(10);

/// What the demo prints. The names are API.
#[derive(Debug, Clone, Serialize)]
struct Numbers {
    accepted: u64,
    landed: i64,
    dead_lettered: i64,
    duplicates: i64,
    quarantined: i64,
    cleaned: i64,
    reports: i64,
    live_rows: i64,
    agreed: bool,
    /// What did not agree, for people.
    #[serde(skip)]
    disagreements: Vec<String>,
}

/// What was put on the topic.
struct Posted {
    accepted: u64,
    malformed: u64,
    /// The topic's ends before and after.
    before: Offsets,
    after: Offsets,
}

/// The end of every partition.
type Offsets = BTreeMap<i32, i64>;

/// What the pipeline's tasks say they did, summed over the runs that took part.
#[derive(Debug, Default, Clone)]
struct Told {
    landed: i64,
    /// Where landing started and stopped, by partition.
    started: Offsets,
    stopped: Offsets,
    cleaned: i64,
    dead_lettered: i64,
    quarantined: i64,
    duplicates: i64,
    reports: i64,
}

/// Runs the demo.
pub(crate) async fn run(settings: &Settings, arguments: &DemoArguments) -> Result<()> {
    let shutdown = shutdown::token();
    let Some(mut standalone) = Standalone::start(settings, &shutdown).await? else {
        return Ok(());
    };
    let shown = tokio::select! {
        biased;
        () = shutdown.cancelled() => Err(Failure::failed("the demo was interrupted")),
        failure = standalone.services_broke() => Err(failure),
        shown = show(&standalone, arguments, &shutdown) => shown,
    };
    let numbers = match shown {
        Ok(numbers) => numbers,
        Err(failure) => {
            standalone.stop().await;
            return Err(failure);
        }
    };
    if !arguments.exit {
        say(&format!(
            "pages on {}; Ctrl-C stops it",
            standalone.running.web_url
        ));
        return standalone.stay_up(&shutdown).await;
    }
    standalone.stop().await;
    if numbers.agreed {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "the numbers disagree: {}",
        numbers.disagreements.join("; ")
    )))
}

async fn show(
    standalone: &Standalone,
    arguments: &DemoArguments,
    shutdown: &CancellationToken,
) -> Result<Numbers> {
    let posted = post(standalone, shutdown).await?;
    let run = run_pipeline(standalone).await?;
    let told = what_tasks_tell(&standalone.store, &run).await?;
    wait_for_live_view(standalone, &posted.after).await?;
    let numbers = numbers(standalone, &posted, &told).await?;
    if arguments.json {
        output::json(&numbers)?;
    } else {
        output::text(&table(&numbers, &run, &standalone.running.web_url))?;
    }
    Ok(numbers)
}

async fn post(standalone: &Standalone, shutdown: &CancellationToken) -> Result<Posted> {
    let kafka = &standalone.running.kafka;
    let before = end_offsets(standalone).await?;
    let url = standalone::pin_url(&standalone.running.ingest_url);
    let pins = standalone::PINS
        .lines()
        .filter(|line| !line.trim().is_empty())
        .count();
    say(&format!(
        "posting {pins} real pins to {url}, and {POSTED_AGAIN} of them a second time"
    ));

    let mut again = EmulateOptions::new(url.clone(), standalone::PINS);
    again.count = Some(POSTED_AGAIN);
    let mut accepted = 0;
    for options in [EmulateOptions::new(url, standalone::PINS), again] {
        let progress = Progress::start("posting pins");
        let posted = emulate::run(
            options,
            |posted| progress.count(posted.accepted, posted.wanted.unwrap_or(posted.accepted)),
            shutdown.clone(),
        )
        .await;
        progress.end();
        let posted = posted?;
        if let Some(refusal) = posted.refused.first() {
            return Err(Failure::failed(format!(
                "the ingest API refused a pin of line {}: {}",
                refusal.line, refusal.reason
            )));
        }
        accepted += posted.accepted;
    }

    let malformed = malformed_messages();
    let names: Vec<_> = malformed.iter().map(|message| message.name).collect();
    say(&format!(
        "putting {} malformed messages on the topic: {}",
        malformed.len(),
        names.join(", ")
    ));
    let places = produce_malformed(kafka, PINS_TOPIC, &malformed)
        .await
        .map_err(|error| {
            Failure::unreachable("cannot produce the malformed messages").because(error)
        })?;
    let malformed = places.len() as u64;
    Ok(Posted {
        accepted,
        malformed,
        before,
        after: end_offsets(standalone).await?,
    })
}

async fn end_offsets(standalone: &Standalone) -> Result<Offsets> {
    live::end_offsets(&standalone.running.kafka, PINS_TOPIC, BROKER_PATIENCE)
        .await
        .map_err(|error| {
            Failure::unreachable("the broker does not tell where the topic ends").because(error)
        })
}

async fn run_pipeline(standalone: &Standalone) -> Result<RunRow> {
    let store = &standalone.store;
    let dag_id = DagId::new(DAG).expect("the constant is a good id");
    let Some(dag) = store.dag(&dag_id).await? else {
        return Err(missing_dag(standalone).await?);
    };
    if dag.paused {
        return Err(Failure::failed(format!(
            "the DAG `{DAG}` is paused, so its runs do not start"
        ))
        .hint(format!(
            "`pinwheel dags unpause {DAG}` while `pinwheel standalone` runs on this data directory"
        )));
    }
    let mut changes = standalone.engine.changes();
    let run_id = store
        .trigger(NewRun {
            dag_id,
            kind: RunKind::Manual,
            logical_date: None,
            params: serde_json::Map::new(),
            triggered_by: "demo".to_owned(),
        })
        .await?;
    standalone.engine.bell().ring();
    say(&format!(
        "run {run_id} of {DAG}: {}/runs/{run_id}",
        standalone.running.web_url
    ));
    let progress = Progress::start(&format!("run {run_id}"));
    let run =
        tokio::time::timeout(RUN_PATIENCE, follow(store, run_id, &mut changes, &progress)).await;
    progress.end();
    let run = run.map_err(|_| {
        Failure::failed(format!(
            "run {run_id} has not ended after {} s",
            RUN_PATIENCE.as_secs()
        ))
        .hint(format!(
            "start `pinwheel standalone` on this data directory and look at run {run_id}"
        ))
    })??;
    if run.state != RunState::Success {
        return Err(failed_run(store, &run).await?);
    }
    Ok(run)
}

/// Follows a run and says when a task has ended.
async fn follow(
    store: &Store,
    run_id: RunId,
    changes: &mut Changes,
    progress: &Progress,
) -> Result<RunRow> {
    let told = std::cell::RefCell::new(Vec::new());
    cli::wait_until_final(store, run_id, changes, |instances| {
        progress.tasks(instances);
        for instance in instances
            .iter()
            .filter(|instance| instance.state.is_final())
        {
            let mut told = told.borrow_mut();
            if !told.contains(&instance.instance_id) {
                told.push(instance.instance_id);
                let took = output::took(instance.started_at, instance.finished_at);
                progress.say(&format!(
                    "  {}: {} in {took}",
                    instance.task_id,
                    output::word(&instance.state)
                ));
            }
        }
    })
    .await
}

async fn missing_dag(standalone: &Standalone) -> Result<Failure> {
    let reports: Vec<_> = standalone
        .store
        .file_errors()
        .await?
        .into_iter()
        .map(|error| error.report)
        .collect();
    let folder = standalone.running.dags_folder.display();
    Ok(Failure::invalid(format!("there is no DAG `{DAG}` in `{folder}`\n\n{}", reports.join("\n")))
        .hint("the demo runs the DAGs that come with Pinwheel: start it in the project's folder, or name that folder's `dags` with --dags"))
}

async fn failed_run(store: &Store, run: &RunRow) -> Result<Failure> {
    let instances = store.instances(run.run_id).await?;
    Ok(Failure::failed(format!(
        "the pipeline failed\n\n{}",
        cli::run_description(run, &instances)
    )))
}

/// Sums what the tasks say over the run and those just before it: a scheduled run may have been made while we posted,
/// and have landed a part.
async fn what_tasks_tell(store: &Store, ours: &RunRow) -> Result<Told> {
    let filter = RunFilter {
        dag_id: Some(ours.dag_id.clone()),
        limit: 20,
        ..RunFilter::default()
    };
    let runs = store.runs(&filter).await?;
    let mut told = Told::default();
    told.add(store, ours.run_id).await?;
    let made_before =
        |run: &&RunRow| run.run_id < ours.run_id && run.finished_at > Some(ours.created_at);
    for run in runs.iter().filter(made_before) {
        told.add(store, run.run_id).await?;
    }
    Ok(told)
}

impl Told {
    async fn add(&mut self, store: &Store, run_id: RunId) -> Result<()> {
        for instance in store.instances(run_id).await? {
            let output = store
                .output(instance.instance_id)
                .await?
                .unwrap_or_default();
            match instance.kind.as_str() {
                "kafka_to_s3" => self.add_landing(&output),
                "clean" => {
                    self.cleaned += number(&output, "cleaned");
                    self.dead_lettered += number(&output, "dead_lettered");
                    self.quarantined += number(&output, "quarantined");
                    self.duplicates += number(&output, "duplicates");
                }
                "report" => self.reports += number(&output, "reports"),
                _ => {}
            }
        }
        Ok(())
    }

    fn add_landing(&mut self, output: &Value) {
        self.landed += number(output, "records");
        for range in output["partitions"].as_array().into_iter().flatten() {
            let Ok(partition) = i32::try_from(number(range, "partition")) else {
                continue;
            };
            let (start, end) = (number(range, "start"), number(range, "end"));
            let started = self.started.entry(partition).or_insert(start);
            *started = start.min(*started);
            let stopped = self.stopped.entry(partition).or_insert(end);
            *stopped = end.max(*stopped);
        }
    }
}

fn number(value: &Value, name: &str) -> i64 {
    value[name].as_i64().unwrap_or_default()
}

async fn wait_for_live_view(standalone: &Standalone, ends: &Offsets) -> Result<()> {
    say("waiting for the live view to catch up");
    let pool = live::connect(&standalone.running.database_url)?;
    let deadline = Instant::now() + LIVE_PATIENCE;
    while !live::is_caught_up(&pool, DATASET, PINS_TOPIC, ends).await? {
        if Instant::now() > deadline {
            let stream = live::streams(&pool)
                .await?
                .into_iter()
                .find(|stream| stream.stream == DATASET);
            let state = stream.map_or_else(
                || "it never started".to_owned(),
                |stream| {
                    format!(
                        "it is `{}`: {}",
                        stream.state,
                        stream.problem.unwrap_or_default()
                    )
                },
            );
            return Err(Failure::failed(format!(
                "the stream `{DATASET}` has not caught up with the topic after {} s; {state}",
                LIVE_PATIENCE.as_secs()
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    pool.close().await;
    Ok(())
}

async fn numbers(standalone: &Standalone, posted: &Posted, told: &Told) -> Result<Numbers> {
    let pool = live::connect(&standalone.running.database_url)?;
    let live_rows = live::rows(&pool, DATASET).await?;
    pool.close().await;
    let dataset_rows = query::count(&standalone.settings, DATASET).await?;

    let disagreements = disagreements(posted, told, live_rows, dataset_rows);
    Ok(Numbers {
        accepted: posted.accepted,
        landed: told.landed,
        dead_lettered: told.dead_lettered,
        duplicates: told.duplicates,
        quarantined: told.quarantined,
        cleaned: told.cleaned,
        reports: told.reports,
        live_rows,
        agreed: disagreements.is_empty(),
        disagreements,
    })
}

/// Compares what the parts say. An earlier demo that was interrupted may have left messages that nobody has landed:
/// they land now, so landing is compared with the offsets and the offsets with what was posted.
fn disagreements(posted: &Posted, told: &Told, live_rows: i64, dataset_rows: i64) -> Vec<String> {
    let sum = |offsets: &Offsets| offsets.values().sum::<i64>();
    let mut found = Vec::new();
    let mut compare = |what: &str, left: i64, right: i64| {
        if left != right {
            found.push(format!("{what}: {left} and {right}"));
        }
    };
    let appended = sum(&posted.after) - sum(&posted.before);
    let sent = i64::try_from(posted.accepted + posted.malformed).unwrap_or(i64::MAX);
    compare(
        "messages on the topic, and accepted and malformed ones",
        appended,
        sent,
    );
    compare(
        "the topic's end, and where landing stopped",
        sum(&posted.after),
        sum(&told.stopped),
    );
    compare(
        "offsets to land, and landed ones",
        sum(&told.stopped) - sum(&told.started),
        told.landed,
    );
    compare(
        "landed messages, and what cleaning made of them",
        told.landed,
        told.cleaned + told.dead_lettered + told.quarantined + told.duplicates,
    );
    compare(
        "rows of the dataset, and of the live table",
        dataset_rows,
        live_rows,
    );
    if told.reports == 0 {
        found.push("no report was written".to_owned());
    }
    found
}

fn table(numbers: &Numbers, run: &RunRow, web_url: &str) -> String {
    let rows = [
        ("posts accepted", numbers.accepted.to_string()),
        ("offsets landed", numbers.landed.to_string()),
        ("dead-lettered", numbers.dead_lettered.to_string()),
        ("duplicates", numbers.duplicates.to_string()),
        ("quarantined", numbers.quarantined.to_string()),
        ("rows cleaned", numbers.cleaned.to_string()),
        ("reports written", numbers.reports.to_string()),
        ("rows in the live table", numbers.live_rows.to_string()),
        (
            "everything agrees",
            if numbers.agreed {
                "yes".to_owned()
            } else {
                "NO".to_owned()
            },
        ),
    ];
    let mut text = String::from("\n");
    for (name, value) in rows {
        text.push_str(&format!("  {name:24}{value:>8}\n"));
    }
    for disagreement in &numbers.disagreements {
        text.push_str(&format!("  ! {disagreement}\n"));
    }
    text.push_str(&format!(
        "\n  the run    {web_url}/runs/{}\n  all pages  {web_url}/\n",
        run.run_id
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posted() -> Posted {
        Posted {
            accepted: 4,
            malformed: 1,
            before: [(0, 10)].into(),
            after: [(0, 15)].into(),
        }
    }

    fn told() -> Told {
        Told {
            landed: 5,
            started: [(0, 10)].into(),
            stopped: [(0, 15)].into(),
            cleaned: 3,
            dead_lettered: 1,
            quarantined: 0,
            duplicates: 1,
            reports: 2,
        }
    }

    #[test]
    fn a_pipeline_that_accounts_for_every_message_agrees() {
        assert_eq!(
            disagreements(&posted(), &told(), 3, 3),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_an_interrupted_demo_left_may_land_as_well() {
        let told = Told {
            landed: 7,
            started: [(0, 8)].into(),
            duplicates: 3,
            ..told()
        };
        assert_eq!(disagreements(&posted(), &told, 3, 3), Vec::<String>::new());
    }

    #[test]
    fn every_loss_is_named() {
        let lost = Told {
            landed: 4,
            ..told()
        };
        assert_eq!(disagreements(&posted(), &lost, 3, 3).len(), 2);
        assert_eq!(disagreements(&posted(), &told(), 2, 3).len(), 1);
        let short = Told {
            stopped: [(0, 14)].into(),
            ..told()
        };
        assert_eq!(disagreements(&posted(), &short, 3, 3).len(), 2);
        let silent = Told {
            reports: 0,
            ..told()
        };
        assert_eq!(
            disagreements(&posted(), &silent, 3, 3),
            ["no report was written"]
        );
    }
}
