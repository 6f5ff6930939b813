//! `pinwheel datasets`: what tasks update and DAGs wait for.

use clap::{Args, Subcommand};
use pinwheel_scheduler::{
    model::DatasetName,
    store::{DatasetEventRow, DatasetExtra, DatasetRow, DatasetSetRow},
};
use serde_json::{Map, Value, json};

use super::{client, output};
use crate::{failure::Result, settings::Settings};

/// Events that `show` prints.
const EVENTS: i64 = 10;

/// `pinwheel datasets …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List datasets with who updates them, who waits for them and their last event
    List(List),
    /// Show one dataset: its last events, and what the DAGs that wait for it still lack
    Show(Show),
    /// Tell that a dataset was updated by something outside of Pinwheel
    #[command(after_help = "\
Examples:
  pinwheel datasets push s3://lake/clean/pins
  pinwheel datasets push s3://lake/clean/pins --extra '{\"rows\": 200}'

The runs whose sets this completes are made at once. Their templates read --extra as `triggering_datasets`.")]
    Push(Push),
}

/// Arguments of `datasets list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `datasets show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The dataset
    #[arg(value_parser = dataset_name, value_name = "DATASET")]
    dataset: DatasetName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `datasets push`.
#[derive(Debug, Args)]
pub(crate) struct Push {
    /// The dataset; a task has it among its outlets, or a DAG waits for it
    #[arg(value_parser = dataset_name, value_name = "DATASET")]
    dataset: DatasetName,
    /// A JSON object of at most 64 KiB for the runs that follow
    #[arg(long, value_parser = extra, value_name = "JSON")]
    extra: Option<DatasetExtra>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn dataset_name(text: &str) -> std::result::Result<DatasetName, String> {
    DatasetName::new(text).ok_or_else(|| {
        format!(
            "a dataset is a URI or a name of 1 to {} bytes without blanks and braces",
            DatasetName::LONGEST
        )
    })
}

fn extra(text: &str) -> std::result::Result<DatasetExtra, String> {
    let table: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("expected a JSON object: {error}"))?;
    DatasetExtra::new(table)
        .ok_or_else(|| format!("it has at most {} bytes", DatasetExtra::LARGEST))
}

impl Command {
    pub(crate) async fn run(self, settings: &Settings) -> Result<()> {
        match self {
            Self::List(arguments) => list(settings, &arguments).await,
            Self::Show(arguments) => show(settings, &arguments).await,
            Self::Push(arguments) => push(settings, arguments).await,
        }
    }
}

async fn list(settings: &Settings, arguments: &List) -> Result<()> {
    let store = client::connect(settings).await?;
    let datasets = store.datasets().await?;
    if arguments.json {
        return output::json(&datasets);
    }
    output::text(&table(&datasets))
}

async fn show(settings: &Settings, arguments: &Show) -> Result<()> {
    let store = client::connect(settings).await?;
    let dataset = store.dataset(&arguments.dataset).await?;
    let events = store
        .dataset_events(Some(&arguments.dataset), None, EVENTS)
        .await?;
    let mut sets = store.dataset_sets(None).await?;
    sets.retain(|set| dataset.consumers.contains(&set.dag_id));
    if arguments.json {
        return output::json(&json!({ "dataset": dataset, "sets": sets, "events": events }));
    }
    output::text(&words(&dataset, &sets, &events))
}

async fn push(settings: &Settings, arguments: Push) -> Result<()> {
    let store = client::connect(settings).await?;
    let pushed = store
        .push_dataset_event(
            &arguments.dataset,
            arguments.extra.unwrap_or_default(),
            &client::actor(),
        )
        .await?;
    client::ring(&store).await;
    if arguments.json {
        return output::json(&pushed);
    }
    let runs: Vec<String> = pushed.runs.iter().map(ToString::to_string).collect();
    let follows = match runs.as_slice() {
        [] => "no set is complete yet".to_owned(),
        [run] => format!("run {run} was made"),
        _ => format!("runs {} were made", runs.join(", ")),
    };
    output::text(&format!(
        "event {} of {}: {follows}",
        pushed.event_id, arguments.dataset
    ))
}

fn table(datasets: &[DatasetRow]) -> String {
    let rows = datasets.iter().map(|row| {
        [
            row.dataset.to_string(),
            or_dash(producers(row)),
            or_dash(row.consumers.iter().map(ToString::to_string)),
            output::maybe_time(row.last_event.as_ref().map(|event| event.at)),
        ]
    });
    output::columns(
        ["dataset", "updated by", "waited for by", "last event"],
        rows,
    )
}

fn producers(row: &DatasetRow) -> impl Iterator<Item = String> + '_ {
    row.producers
        .iter()
        .map(|producer| format!("{}.{}", producer.dag_id, producer.task_id))
}

fn or_dash(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(", ")
    }
}

fn words(dataset: &DatasetRow, sets: &[DatasetSetRow], events: &[DatasetEventRow]) -> String {
    let mut lines = vec![
        format!("dataset     {}", dataset.dataset),
        format!("updated by  {}", or_dash(producers(dataset))),
    ];
    for set in sets {
        let paused = if set.paused { " (paused)" } else { "" };
        lines.push(format!("waited for  {}{paused}: {}", set.dag_id, set.words));
        for member in &set.members {
            let come = match member.events {
                0 => "still to come".to_owned(),
                events => format!("{events} since {}", output::maybe_time(member.last_at)),
            };
            lines.push(format!("              {}  {come}", member.dataset));
        }
    }
    if !events.is_empty() {
        let rows = events.iter().map(|event| {
            [
                event.event_id.to_string(),
                output::time(event.at),
                source(event),
                or_dash(event.runs.iter().map(ToString::to_string)),
                event.extra.to_string(),
            ]
        });
        lines.push(String::new());
        lines.push(output::columns(
            ["event", "at", "by", "runs made", "extra"],
            rows,
        ));
    }
    lines.join("\n")
}

/// The events that made a run.
pub(super) fn of_run(events: &[DatasetEventRow]) -> String {
    let rows = events.iter().map(|event| {
        [
            event.dataset.to_string(),
            output::time(event.at),
            source(event),
            event.extra.to_string(),
        ]
    });
    output::columns(["made by", "at", "by", "extra"], rows)
}

fn source(event: &DatasetEventRow) -> String {
    match (&event.dag_id, &event.task_id, event.run_id) {
        (Some(dag), Some(task), Some(run)) => format!("{dag}.{task} of run {run}"),
        _pushed => format!("pushed by {}", event.pushed_by.as_deref().unwrap_or("-")),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use pinwheel_scheduler::{
        model::{DagId, RunId, TaskId},
        store::{DatasetMember, DatasetProducer},
    };

    use super::*;

    #[test]
    fn people_read_who_updates_a_dataset_and_what_a_set_lacks() {
        let name = |text: &str| DatasetName::new(text).expect("a name");
        let dag = |text: &str| DagId::new(text).expect("a name");
        let event = DatasetEventRow {
            event_id: 7,
            dataset: name("s3://lake/pins"),
            at: DateTime::UNIX_EPOCH,
            dag_id: Some(dag("land")),
            run_id: Some(RunId(3)),
            task_id: TaskId::new("clean"),
            pushed_by: None,
            extra: json!({ "rows": 2 }),
            runs: vec![],
        };
        let row = DatasetRow {
            dataset: name("s3://lake/pins"),
            producers: vec![DatasetProducer {
                dag_id: dag("land"),
                task_id: TaskId::new("clean").expect("a name"),
            }],
            consumers: vec![dag("report")],
            last_event: Some(event.clone()),
        };
        let set = DatasetSetRow {
            dag_id: dag("report"),
            paused: false,
            words: "s3://lake/pins and users".to_owned(),
            members: vec![
                DatasetMember {
                    dataset: name("s3://lake/pins"),
                    events: 1,
                    last_at: Some(DateTime::UNIX_EPOCH),
                },
                DatasetMember {
                    dataset: name("users"),
                    events: 0,
                    last_at: None,
                },
            ],
        };
        insta::assert_snapshot!(table(std::slice::from_ref(&row)), @"
        DATASET         UPDATED BY  WAITED FOR BY  LAST EVENT
        s3://lake/pins  land.clean  report         1970-01-01 00:00:00Z
        ");
        insta::assert_snapshot!(words(&row, &[set], &[event]), @r#"
        dataset     s3://lake/pins
        updated by  land.clean
        waited for  report: s3://lake/pins and users
                      s3://lake/pins  1 since 1970-01-01 00:00:00Z
                      users  still to come

        EVENT  AT                    BY                   RUNS MADE  EXTRA
        7      1970-01-01 00:00:00Z  land.clean of run 3  -          {"rows":2}
        "#);
    }

    #[test]
    fn extra_is_a_small_json_object() {
        assert!(extra("{\"rows\": 2}").is_ok());
        for wrong in [
            "",
            "[]",
            "2",
            "{",
            &format!("{{\"x\": \"{}\"}}", "y".repeat(70_000)),
        ] {
            assert!(extra(wrong).is_err(), "{}", &wrong[..wrong.len().min(20)]);
        }
    }
}
