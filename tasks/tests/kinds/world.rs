//! An orchestrator of a test's own: its clock stands still until it is moved, and its runs are what the test puts there.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use pinwheel_tasks::{
    Context, Failure, Instance, Kind, Log, LogStream, Orchestrator, OrchestratorError, Outcome,
    RunSeen, RunState, WantedRun, WhichRun,
};
use pinwheel_test_support::durable::Ledger;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

pub(crate) fn date(text: &str) -> DateTime<Utc> {
    text.parse().expect("a test's date is a date")
}

pub(crate) fn table(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(table) => table,
        other => panic!("{other} is not a table"),
    }
}

/// Cheap to clone; clones are the same world.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) runs: Arc<Mutex<Vec<(WantedRun, RunSeen)>>>,
    pub(crate) said: Arc<Mutex<Vec<String>>>,
    pub(crate) cancel: CancellationToken,
    now: Arc<Mutex<DateTime<Utc>>>,
    ledger: Ledger,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            runs: Arc::default(),
            said: Arc::default(),
            cancel: CancellationToken::new(),
            now: Arc::new(Mutex::new(date("2026-01-02T02:00:00Z"))),
            ledger: Ledger::default(),
        }
    }

    pub(crate) fn advance(&self, by: std::time::Duration) {
        *self.now.lock().unwrap() += TimeDelta::from_std(by).unwrap();
    }

    pub(crate) fn set_state(&self, run_id: i64, state: RunState) {
        for (_, run) in self.runs.lock().unwrap().iter_mut() {
            if run.run_id == run_id {
                run.state = state;
            }
        }
    }

    /// Runs a kind once, as the first execution of a try.
    pub(crate) async fn run(&self, kind: &dyn Kind, with: Value) -> Result<Outcome, Failure> {
        self.resume(kind, with, None).await
    }

    /// Runs a kind once, with what its last sleep left.
    pub(crate) async fn resume(
        &self,
        kind: &dyn Kind,
        with: Value,
        resume: Option<Value>,
    ) -> Result<Outcome, Failure> {
        let with = table(with);
        let problems = kind.check(&with);
        assert!(problems.is_empty(), "{problems:?}");
        self.resume_unchecked(kind, with, resume).await
    }

    pub(crate) async fn resume_unchecked(
        &self,
        kind: &dyn Kind,
        with: Map<String, Value>,
        resume: Option<Value>,
    ) -> Result<Outcome, Failure> {
        let (log, mut lines) = Log::channel(100);
        let said = Arc::clone(&self.said);
        let keeping = tokio::spawn(async move {
            while let Some((_, stream, line)) = lines.recv().await {
                let stream = match stream {
                    LogStream::Stdout => "out",
                    LogStream::Stderr => "err",
                    LogStream::Task => "task",
                };
                said.lock().unwrap().push(format!("{stream}: {line}"));
            }
        });
        let context = Context {
            instance: Arc::new(Instance {
                dag_id: "pins".to_owned(),
                run_id: 7,
                task_id: "load".to_owned(),
                instance_id: 70,
                try_number: 2,
                logical_date: date("2026-01-01T02:00:00Z"),
                data_interval_start: date("2026-01-01T02:00:00Z"),
                data_interval_end: date("2026-01-02T02:00:00Z"),
                params: table(serde_json::json!({ "n": 3 })),
            }),
            log,
            cancel: self.cancel.clone(),
            durable: self.ledger.of_instance(70),
            connections: Arc::new(pinwheel_tasks::NoConnections),
            orchestrator: Arc::new(self.clone()),
            resume,
        };
        let outcome = kind.run(&context, with).await;
        drop(context);
        keeping.await.unwrap();
        outcome
    }
}

#[async_trait]
impl Orchestrator for World {
    async fn now(&self) -> Result<DateTime<Utc>, OrchestratorError> {
        Ok(*self.now.lock().unwrap())
    }

    async fn trigger(&self, wanted: &WantedRun) -> Result<RunSeen, OrchestratorError> {
        let mut runs = self.runs.lock().unwrap();
        let known = runs.iter().find(|(known, _)| {
            (&known.dag_id, known.logical_date) == (&wanted.dag_id, wanted.logical_date)
        });
        if let Some((known, run)) = known {
            return if known.asker == wanted.asker {
                Ok(run.clone())
            } else {
                Err(OrchestratorError::Taken { run_id: run.run_id })
            };
        }
        let run = RunSeen {
            run_id: i64::try_from(runs.len()).unwrap() + 1,
            logical_date: wanted.logical_date,
            state: RunState::Queued,
        };
        runs.push((wanted.clone(), run.clone()));
        Ok(run)
    }

    async fn run(&self, run_id: i64) -> Result<Option<RunSeen>, OrchestratorError> {
        let runs = self.runs.lock().unwrap();
        let found = runs.iter().find(|(_, run)| run.run_id == run_id);
        Ok(found.map(|(_, run)| run.clone()))
    }

    async fn run_of(
        &self,
        dag_id: &str,
        which: WhichRun,
    ) -> Result<Option<RunSeen>, OrchestratorError> {
        if dag_id == "nowhere" {
            return Err(OrchestratorError::Refused {
                message: "unknown DAG `nowhere`".to_owned(),
                hint: None,
            });
        }
        let runs = self.runs.lock().unwrap();
        let mut of_dag = runs
            .iter()
            .filter(|(wanted, _)| wanted.dag_id == dag_id)
            .map(|(_, run)| run);
        let found = match which {
            WhichRun::Of(date) => of_dag.rfind(|run| run.logical_date == date),
            WhichRun::Last => of_dag.max_by_key(|run| run.logical_date),
        };
        Ok(found.cloned())
    }
}

pub(crate) fn output(outcome: Result<Outcome, Failure>) -> Value {
    match outcome {
        Ok(Outcome::Success { output }) => output,
        other => panic!("no success: {other:?}"),
    }
}

pub(crate) fn sleep(outcome: Result<Outcome, Failure>) -> (std::time::Duration, String, Value) {
    match outcome {
        Ok(Outcome::Sleep {
            wake_after,
            reason,
            resume,
        }) => (wake_after, reason, resume),
        other => panic!("no sleep: {other:?}"),
    }
}
