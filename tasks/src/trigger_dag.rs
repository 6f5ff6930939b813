//! `trigger_dag`: makes a run of another DAG and, if asked, waits for its end.
//!
//! The run's logical date is frozen before the run is made, so that whatever happens to a try, its task makes one run: a retry, a
//! worker that was lost and a clear all find the run that is there.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use crate::{
    Context, DurableError, Failure, Field, FieldType, Kind, OrchestratorError, Outcome, Outputs,
    Presence, RunSeen, RunState, WantedRun, given::Given, sensor::written,
};

const POLL_INTERVAL: Duration = Duration::from_secs(10);
const SHORTEST_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// What is stored under this name is the run's logical date.
const FROZEN: &str = "trigger_dag";
/// Runs by hand have their dates to the microsecond; when one is taken, the next is tried, so many times.
const TAKEN_DATES: i64 = 100;

const FIELDS: &[Field] = &[
    Field {
        name: "dag",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "The id of the DAG to run",
    },
    Field {
        name: "params",
        field_type: FieldType::Any,
        presence: Presence::Optional { default: "{}" },
        doc: "The run's params, as a table; each may be a template",
    },
    Field {
        name: "logical_date",
        field_type: FieldType::Text,
        presence: Presence::Optional {
            default: "the time of the first try",
        },
        doc: "The run's logical date, such as `{{ logical_date }}`; a run that somebody else made for it fails the task",
    },
    Field {
        name: "wait",
        field_type: FieldType::Boolean,
        presence: Presence::Optional { default: "false" },
        doc: "Whether to wait for the run's end, without holding a worker",
    },
    Field {
        name: "allow_failure",
        field_type: FieldType::Boolean,
        presence: Presence::Optional { default: "false" },
        doc: "With `wait`: whether a run that failed or was cancelled is a success of this task",
    },
    Field {
        name: "poke_interval",
        field_type: FieldType::Duration,
        presence: Presence::Optional { default: "\"10s\"" },
        doc: "With `wait`: how long it sleeps between two looks; one second or more",
    },
];

/// The kind `trigger_dag`.
#[derive(Debug, Clone, Copy, Default)]
pub struct TriggerDag;

#[async_trait]
impl Kind for TriggerDag {
    fn name(&self) -> &'static str {
        "trigger_dag"
    }

    fn summary(&self) -> &'static str {
        "Makes a run of another DAG and, if asked, waits for its end"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn outputs(&self) -> Outputs {
        Outputs::Known(&[
            ("run_id", "The run"),
            ("logical_date", "Its logical date"),
            ("state", "The state it was last seen in"),
        ])
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        let given = Given::new(&with);
        let dag = given.required_text("dag")?;
        let run =
            match known(context) {
                Some(run_id) => context.orchestrator.run(run_id).await?.ok_or_else(|| {
                    Failure::permanent(format!("run {run_id} of `{dag}` is gone"))
                })?,
                None => trigger(context, &dag, given).await?,
            };
        let called = format!("run {} of `{dag}`", run.run_id);
        if given.is_set("wait")? {
            match run.state {
                RunState::Queued | RunState::Running => {
                    let poke_interval = given.duration("poke_interval")?.unwrap_or(POLL_INTERVAL);
                    return Ok(Outcome::Sleep {
                        wake_after: poke_interval.max(SHORTEST_POLL_INTERVAL),
                        reason: format!("waits for {called}, which is {}", run.state.word()),
                        resume: json!({ "run_id": run.run_id }),
                    });
                }
                RunState::Failed | RunState::Cancelled if !given.is_set("allow_failure")? => {
                    // Another try would find the same run.
                    return Err(
                        Failure::permanent(format!("{called} is {}", run.state.word())).with_hint(
                            format!(
                                "this task makes no second run: clear run {}, then this task",
                                run.run_id
                            ),
                        ),
                    );
                }
                RunState::Success | RunState::Failed | RunState::Cancelled => {}
            }
        }
        Ok(Outcome::Success {
            output: json!({
                "run_id": run.run_id, "logical_date": written(run.logical_date), "state": run.state.word(),
            }),
        })
    }
}

/// The run that this try made before it slept.
fn known(context: &Context) -> Option<i64> {
    context.resume.as_ref()?.get("run_id")?.as_i64()
}

async fn trigger(context: &Context, dag: &str, given: Given<'_>) -> Result<RunSeen, Failure> {
    let asked = given.instant("logical_date")?;
    let date = freeze(context, asked).await?;
    // A date that a person chose is the one they mean; one that is only "now" may move out of the way. Whoever asks again finds
    // their own run on the same way.
    let dates = if asked.is_some() { 1 } else { TAKEN_DATES };
    let instance = &context.instance;
    let mut wanted = WantedRun {
        dag_id: dag.to_owned(),
        logical_date: date,
        params: given.table("params")?,
        asker: format!(
            "task {} of {} run {} ({})",
            instance.task_id, instance.dag_id, instance.run_id, instance.instance_id
        ),
    };
    for step in 0..dates {
        wanted.logical_date = date + TimeDelta::microseconds(step);
        match context.orchestrator.trigger(&wanted).await {
            Ok(run) => {
                let date = written(run.logical_date);
                context
                    .log
                    .say(format!("run {} of `{dag}` for {date}", run.run_id))
                    .await;
                return Ok(run);
            }
            Err(OrchestratorError::Taken { .. }) if step + 1 < dates => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::retryable(format!(
        "no logical date of `{dag}` is free"
    )))
}

/// The date that this task's run has, whichever try asks.
async fn freeze(context: &Context, asked: Option<DateTime<Utc>>) -> Result<DateTime<Utc>, Failure> {
    let date = match asked {
        Some(date) => date,
        None => context.orchestrator.now().await?,
    };
    let date = date.to_rfc3339_opts(SecondsFormat::Micros, true);
    let frozen =
        context
            .durable
            .freeze(FROZEN, json!(date))
            .await
            .map_err(|error| match error {
                DurableError::Fenced | DurableError::CursorMoved { .. } => {
                    Failure::permanent(error.to_string())
                }
                DurableError::Unavailable(_) => Failure::retryable(error.to_string()),
            })?;
    frozen
        .as_str()
        .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
        .map(|date| date.to_utc())
        .ok_or_else(|| Failure::permanent(format!("`{frozen}` is stored as the run's date")))
}
