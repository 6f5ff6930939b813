//! `pinwheel dags render`: what a task's templates become, without running anything and without a database.

use std::{collections::BTreeMap, path::PathBuf};

use chrono::{DateTime, Utc};
use clap::Args;
use pinwheel_scheduler::{
    model::{
        Dag, Params, Task,
        schedule::DataInterval,
        template::{self, Values},
    },
    secrets::Masks,
};
use serde_json::{Map, Value, json};

use super::{check, dags::read_params, logical_date, output};
use crate::{
    failure::{Failure, Result},
    settings::Settings,
};

/// Arguments of `dags render`.
#[derive(Debug, Args)]
pub(crate) struct Render {
    /// The DAG file
    file: PathBuf,
    /// The task
    task: String,
    /// The logical date: a day, or a time in RFC 3339 [default: now]
    #[arg(long, value_name = "DATE")]
    date: Option<String>,
    /// A param of the run; may be given several times
    #[arg(long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// What an upstream task would answer; may be given several times
    #[arg(long = "output", value_name = "TASK=JSON")]
    outputs: Vec<String>,
    /// The item of a task with `foreach` [default: null]
    #[arg(long, value_name = "JSON")]
    item: Option<Value>,
    /// Print one JSON object with everything
    #[arg(long)]
    json: bool,
}

/// Renders and prints.
pub(crate) async fn run(settings: &Settings, arguments: &Render) -> Result<()> {
    let dag = check::load_one(&arguments.file, &settings.dags_folder).await?;
    let task = find(&dag, &arguments.task)?;
    let logical_date = logical_date::read(&dag, arguments.date.as_deref())?;
    let interval = logical_date::interval(&dag, logical_date);
    let params = dag
        .check_params(&read_params(&dag, &arguments.params)?)
        .map_err(|errors| {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Failure::invalid(all.join("; ")).hint("give each with --param NAME=VALUE")
        })?;
    let outputs = outputs(&arguments.outputs)?;
    let mut values = values(&dag, task, params, (logical_date, interval), outputs);
    if task.flow.foreach.is_some() {
        values.item = Some((arguments.item.clone().unwrap_or(Value::Null), 0));
    }

    let reads = template::reads(&task.with);
    let missing = reads
        .tasks
        .iter()
        .find(|id| !values.outputs.contains_key(*id));
    if let Some(id) = missing {
        return Err(Failure::invalid(format!(
            "task `{}` reads the output of `{id}`, which is not given",
            task.id
        ))
        .hint(format!(
            "give it with --output {id}='{{\"name\": \"value\"}}'; {{}} is an empty one"
        )));
    }
    let found = settings
        .secrets
        .sources()?
        .look_up(&reads.connections, &reads.variables)?;
    let masks = Masks::default();
    found.mask(&masks);
    let with = template::render_with(&task.with, &values, &found.for_templates())
        .map_err(|error| refused(error, &masks))?;
    let with = masks.value(&Value::Object(with));
    let key = task
        .concurrency
        .as_ref()
        .map(|concurrency| template::render_text("concurrency_key", &concurrency.key, &values))
        .transpose()
        .map_err(|error| refused(error, &masks))?;
    if !arguments.json {
        output::json(&with)?;
        if let Some(key) = key {
            output::text(&format!("concurrency_key: {key}"))?;
        }
        return Ok(());
    }
    output::json(&json!({
        "dag_id": dag.id,
        "task_id": task.id,
        "kind": task.kind,
        "logical_date": logical_date,
        "data_interval_start": interval.start,
        "data_interval_end": interval.end,
        "params": values.params,
        "with": with,
        "concurrency_key": key,
    }))
}

fn refused(error: template::Error, masks: &Masks) -> Failure {
    let failure = Failure::invalid(masks.text(&error.message).into_owned());
    let hint = error.hint.map(|hint| {
        // There is no database here to set them in.
        if hint.starts_with("`pinwheel variables set") || hint.starts_with("`pinwheel connections set") {
            "without a database they come from the environment: `PINWHEEL_VAR_<NAME>` and `PINWHEEL_CONN_<ID>`".to_owned()
        } else {
            hint
        }
    });
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn find<'d>(dag: &'d Dag, name: &str) -> Result<&'d Task> {
    dag.tasks
        .iter()
        .find(|task| task.id.as_str() == name)
        .ok_or_else(|| {
            let names: Vec<String> = dag
                .tasks
                .iter()
                .map(|task| format!("`{}`", task.id))
                .collect();
            Failure::invalid(format!("DAG `{}` has no task `{name}`", dag.id))
                .hint(format!("it has {}", names.join(", ")))
        })
}

fn outputs(given: &[String]) -> Result<BTreeMap<String, Value>> {
    given
        .iter()
        .map(|text| {
            let refuse = |message: String| {
                Failure::invalid(message).hint("write --output TASK='{\"name\": \"value\"}'")
            };
            let (task, output) = text
                .split_once('=')
                .ok_or_else(|| refuse(format!("`--output {text}` has no `=`")))?;
            let output: Map<String, Value> = serde_json::from_str(output).map_err(|error| {
                refuse(format!("the output of `{task}` is no JSON object: {error}"))
            })?;
            Ok((task.to_owned(), Value::Object(output)))
        })
        .collect()
}

fn values(
    dag: &Dag,
    task: &Task,
    params: Params,
    (logical_date, interval): (DateTime<Utc>, DataInterval),
    outputs: BTreeMap<String, Value>,
) -> Values {
    Values {
        params,
        outputs,
        dag_id: dag.id.to_string(),
        run_id: 0,
        task_id: task.id.to_string(),
        try_number: 1,
        logical_date,
        data_interval_start: interval.start,
        data_interval_end: interval.end,
        item: None,
        triggering_datasets: dag.no_updates(),
    }
}
