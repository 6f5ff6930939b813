//! `pinwheel dags test`: one run of a DAG file in this process, without a server and without Postgres.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use clap::Args;
use pinwheel_scheduler::{
    local::{self, Event, Mock, Report, Request},
    model::{Dag, RunState, TaskState},
};
use serde_json::Value;

use super::{logical_date, output};
use crate::{
    failure::{Failure, Result},
    registry,
    settings::Settings,
    shutdown,
};

/// Arguments of `dags test`.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// A DAG file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The logical date: a day, or a time in RFC 3339 [default: now]
    #[arg(long, value_name = "DATE")]
    date: Option<String>,
    /// A param of the run; may be given several times
    #[arg(long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// What a task does instead of running: success, failed, skipped, or branch:ID,ID; may be given several times
    #[arg(long = "mock", value_name = "TASK=OUTCOME")]
    mocks: Vec<String>,
    /// What a task answers instead of running, which is mocked with success by it; may be given several times
    #[arg(long = "output", value_name = "TASK=JSON")]
    outputs: Vec<String>,
    /// How many tasks run at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    slots: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) async fn test(settings: &Settings, arguments: Test) -> Result<()> {
    let dag = super::check::load_one(&arguments.file, &settings.dags_folder).await?;
    let registry = registry::for_test(settings).await?;
    let request = request(&dag, &arguments, settings)?;
    let is_quiet = arguments.json;
    let cancel = shutdown::token();
    let report = local::run(
        Arc::clone(&dag),
        registry,
        request,
        cancel.clone(),
        |event| {
            if !is_quiet {
                say(&event);
            }
        },
    )
    .await;
    if cancel.is_cancelled() {
        return Err(Failure::failed("stopped before the run had ended"));
    }
    if arguments.json {
        output::json(&report)?;
    } else {
        output::text(&described(&report))?;
    }
    verdict(&dag, &report)
}

fn request(dag: &Dag, arguments: &Test, settings: &Settings) -> Result<Request> {
    let given: serde_json::Map<String, Value> = super::dags::read_params(dag, &arguments.params)?;
    let params = dag.check_params(&given).map_err(|errors| {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Failure::invalid(all.join("; ")).hint(
            "give params by `--param NAME=VALUE`; `pinwheel dags check` shows the file is good",
        )
    })?;
    let logical_date = logical_date::read(dag, arguments.date.as_deref())?;
    let interval = logical_date::interval(dag, logical_date);
    let mut mocks = mocks(dag, &arguments.mocks)?;
    let outputs = outputs(dag, &arguments.outputs)?;
    for task in outputs.keys() {
        let mock = mocks.entry(task.clone()).or_insert(Mock::Success);
        if *mock != Mock::Success {
            return Err(Failure::invalid(format!(
                "`--output` of `{task}` stands beside a mock that is no success"
            ))
            .hint("only a task that succeeds has an output"));
        }
    }
    Ok(Request {
        logical_date,
        data_interval_start: interval.start,
        data_interval_end: interval.end,
        params,
        mocks,
        outputs,
        slots: arguments.slots,
        sources: settings.secrets.sources()?,
    })
}

fn mocks(dag: &Dag, given: &[String]) -> Result<BTreeMap<String, Mock>> {
    given
        .iter()
        .map(|text| {
            let (task, outcome) = of_task(dag, "--mock", "TASK=success", text)?;
            let mock: Mock = outcome.parse().map_err(|error: local::UnknownMock| {
                Failure::invalid(format!("`--mock {text}`: {error}"))
                    .hint("the outcomes are success, failed, skipped and branch:ID,ID")
            })?;
            if let Mock::Branch(chosen) = &mock {
                let (_, branch) = dag.task(task).expect("it was looked up a moment ago");
                dag.check_choice(branch, chosen).map_err(|unknown| {
                    Failure::invalid(format!(
                        "`--mock {text}`: `{unknown}` is not directly downstream of `{task}`"
                    ))
                })?;
            }
            Ok((task.to_owned(), mock))
        })
        .collect()
}

fn outputs(dag: &Dag, given: &[String]) -> Result<BTreeMap<String, Value>> {
    given
        .iter()
        .map(|text| {
            let (task, json) = of_task(dag, "--output", "TASK=JSON", text)?;
            let value = serde_json::from_str(json).map_err(|error| {
                Failure::invalid(format!("`--output {text}` is no JSON: {error}"))
                    .hint("a text stands in double quotes: --output 'TASK=\"text\"'")
            })?;
            Ok((task.to_owned(), value))
        })
        .collect()
}

/// A task and what is said of it.
fn of_task<'t>(dag: &Dag, flag: &str, form: &str, text: &'t str) -> Result<(&'t str, &'t str)> {
    let (task, what) = text.split_once('=').ok_or_else(|| {
        Failure::invalid(format!("`{flag} {text}` has no `=`")).hint(format!("write {flag} {form}"))
    })?;
    if dag.task(task).is_none() {
        let all: Vec<&str> = dag.tasks.iter().map(|task| task.id.as_str()).collect();
        return Err(
            Failure::invalid(format!("`{}` has no task `{task}`", dag.id))
                .hint(format!("its tasks are {}", all.join(", "))),
        );
    }
    Ok((task, what))
}

fn say(event: &Event) {
    match event {
        Event::Begins {
            task,
            try_number: 1,
        } => eprintln!("{task}: begins"),
        Event::Begins { task, try_number } => eprintln!("{task}: begins try {try_number}"),
        Event::Line { task, line } => eprintln!("{task} | {line}"),
        Event::Ends {
            task,
            state,
            reason,
        } => match reason {
            Some(reason) => eprintln!("{task}: {state}: {reason}"),
            None => eprintln!("{task}: {state}"),
        },
    }
}

fn described(report: &Report) -> String {
    let rows = report.tasks.iter().map(|(task, state)| {
        let items = report.items.get(task).and_then(Value::as_array);
        let reason = report.reasons.get(task).and_then(Value::as_str);
        let note = match items {
            Some(items) => {
                let of =
                    |state: TaskState| items.iter().filter(|item| **item == state.as_str()).count();
                format!(
                    "{} items: {} success, {} failed, {} skipped",
                    items.len(),
                    of(TaskState::Success),
                    of(TaskState::Failed),
                    of(TaskState::Skipped)
                )
            }
            None => String::new(),
        };
        let note = match (note.is_empty(), reason) {
            (true, reason) => reason.unwrap_or_default().to_owned(),
            (false, None) => note,
            (false, Some(reason)) => format!("{note}; {reason}"),
        };
        [
            task.clone(),
            state.as_str().unwrap_or_default().to_owned(),
            note,
        ]
    });
    format!(
        "{}\n\nrun: {}",
        output::columns(["task", "state", "why"], rows),
        report.state
    )
}

fn verdict(dag: &Dag, report: &Report) -> Result<()> {
    match report.state {
        RunState::Success => Ok(()),
        RunState::Failed | RunState::Queued | RunState::Running | RunState::Cancelled => {
            Err(Failure::failed(format!("the run of `{}` failed", dag.id)))
        }
    }
}
