//! The orchestrator as a running task sees it. While Postgres is away it waits: that is no fault of the task.

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use pinwheel_tasks::{Orchestrator, OrchestratorError, RunSeen, WantedRun, WhichRun};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    bell::Bell,
    outage::{Outage, Pauses},
};
use crate::{
    model::{DagId, RunId, RunKind, RunState},
    store::{self, NewRun, RunRow, Store},
};

/// What all executions of a worker ask through. Cheap to clone.
#[derive(Clone)]
pub(super) struct Runs {
    store: Store,
    bell: Bell,
    outage: Outage,
    shift: watch::Receiver<TimeDelta>,
    /// Ends the waiting.
    stop: CancellationToken,
}

impl Runs {
    pub(super) fn new(
        store: Store,
        bell: Bell,
        outage: Outage,
        shift: watch::Receiver<TimeDelta>,
    ) -> Self {
        Self {
            store,
            bell,
            outage,
            shift,
            stop: CancellationToken::new(),
        }
    }

    /// For one execution, which waits no longer than until it is stopped.
    pub(super) fn for_execution(&self, stop: CancellationToken) -> Self {
        Self {
            stop,
            ..self.clone()
        }
    }

    /// Asks until there is an answer.
    async fn ask<T, F>(&self, question: impl Fn() -> F) -> Result<T, store::Error>
    where
        F: Future<Output = Result<T, store::Error>>,
    {
        let mut pauses = Pauses::default();
        loop {
            let asked = self.outage.asking();
            let error = match question().await {
                Ok(answer) => {
                    asked.answered();
                    return Ok(answer);
                }
                Err(error) if error.is_unavailable() => error,
                Err(error) => return Err(error),
            };
            asked.failed(&error);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(error),
                () = tokio::time::sleep(pauses.next()) => {}
            }
        }
    }
}

#[async_trait]
impl Orchestrator for Runs {
    async fn now(&self) -> Result<DateTime<Utc>, OrchestratorError> {
        let now = self.ask(|| self.store.now()).await;
        Ok(now.map_err(refused)? + *self.shift.borrow())
    }

    async fn trigger(&self, wanted: &WantedRun) -> Result<RunSeen, OrchestratorError> {
        let dag_id = dag_id(&wanted.dag_id)?;
        let made = self
            .ask(|| {
                self.store.trigger(NewRun {
                    dag_id: dag_id.clone(),
                    kind: RunKind::Manual,
                    logical_date: Some(wanted.logical_date),
                    params: wanted.params.clone(),
                    triggered_by: wanted.asker.clone(),
                })
            })
            .await;
        let (run_id, is_new) = match made {
            Ok(run_id) => (run_id, true),
            Err(store::Error::RunExists { run_id }) => (run_id, false),
            Err(error) => return Err(refused(error)),
        };
        if is_new {
            self.bell.ring();
        }
        let run = self.ask(|| self.store.run(run_id)).await.map_err(refused)?;
        match run {
            Some(run) if run.triggered_by == wanted.asker => Ok(seen(&run)),
            Some(_) | None => Err(OrchestratorError::Taken { run_id: run_id.0 }),
        }
    }

    async fn run(&self, run_id: i64) -> Result<Option<RunSeen>, OrchestratorError> {
        let run = self.ask(|| self.store.run(RunId(run_id))).await;
        Ok(run.map_err(refused)?.as_ref().map(seen))
    }

    async fn run_of(
        &self,
        dag: &str,
        which: WhichRun,
    ) -> Result<Option<RunSeen>, OrchestratorError> {
        let dag_id = dag_id(dag)?;
        let run = self.ask(|| self.store.run_of(&dag_id, which)).await;
        Ok(run.map_err(refused)?.as_ref().map(seen))
    }
}

fn dag_id(text: &str) -> Result<DagId, OrchestratorError> {
    DagId::new(text).ok_or_else(|| OrchestratorError::Refused {
        message: format!("`{}` is no id of a DAG", text.escape_debug()),
        hint: None,
    })
}

fn refused(error: store::Error) -> OrchestratorError {
    let message = error.to_string();
    if error.is_unavailable() {
        OrchestratorError::Unavailable(message)
    } else {
        OrchestratorError::Refused {
            message,
            hint: error.hint(),
        }
    }
}

fn seen(run: &RunRow) -> RunSeen {
    RunSeen {
        run_id: run.run_id.0,
        logical_date: run.logical_date,
        state: match run.state {
            RunState::Queued => pinwheel_tasks::RunState::Queued,
            RunState::Running => pinwheel_tasks::RunState::Running,
            RunState::Success => pinwheel_tasks::RunState::Success,
            RunState::Failed => pinwheel_tasks::RunState::Failed,
            RunState::Cancelled => pinwheel_tasks::RunState::Cancelled,
        },
    }
}
