//! One try of a kind that keeps nothing in the orchestrator.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use pinwheel_tasks::{
    Alone, Context, CursorMove, CursorPosition, Durable, DurableError, Failure, Instance, Kind,
    Log, NoConnections, Outcome,
};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

/// Runs a task of that kind in run `run_id` of the interval from `start` to `end`, and gives its output.
///
/// # Errors
/// The try fails.
///
/// # Panics
/// The kind has a problem with `with`, keeps something in the orchestrator, or ends in another way than by success.
pub async fn run(
    kind: &dyn Kind,
    run_id: i64,
    (start, end): (DateTime<Utc>, DateTime<Utc>),
    with: Value,
) -> Result<Value, Failure> {
    let with = with.as_object().cloned().expect("a table");
    let problems = kind.check(&with);
    assert!(problems.is_empty(), "{problems:?}");
    let (log, mut lines) = Log::channel(16);
    let drain = tokio::spawn(async move { while lines.recv().await.is_some() {} });
    let context = Context {
        instance: Arc::new(Instance {
            dag_id: "daily".to_owned(),
            run_id,
            task_id: kind.name().to_owned(),
            instance_id: run_id,
            try_number: 1,
            logical_date: start,
            data_interval_start: start,
            data_interval_end: end,
            params: Map::new(),
        }),
        log,
        cancel: CancellationToken::new(),
        durable: Arc::new(Forbidden),
        orchestrator: Arc::new(Alone),
        connections: Arc::new(NoConnections),
        resume: None,
    };
    let outcome = kind.run(&context, with).await;
    drop(context);
    drain.await.expect("the log is drained");
    match outcome? {
        Outcome::Success { output } => Ok(output),
        other => panic!("expected success, found {other:?}"),
    }
}

struct Forbidden;

#[async_trait]
impl Durable for Forbidden {
    async fn freeze(&self, name: &str, _value: Value) -> Result<Value, DurableError> {
        panic!("nothing is frozen as {name}")
    }

    async fn frozen(&self, name: &str) -> Result<Option<Value>, DurableError> {
        panic!("nothing is frozen as {name}")
    }

    async fn cursor(&self, cursor: &str) -> Result<BTreeMap<i32, CursorPosition>, DurableError> {
        panic!("there is no cursor {cursor}")
    }

    async fn advance(
        &self,
        cursor: &str,
        _plan: &str,
        _moves: &[CursorMove],
    ) -> Result<(), DurableError> {
        panic!("there is no cursor {cursor}")
    }
}
