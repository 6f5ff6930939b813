//! Runs a DAG once in this process, without Postgres: for people who write one. The same pure model decides
//! ([`crate::model::flow`]), the same kinds run; what belongs to an installation is left out: pools, queues, retry delays
//! (a retry follows at once), and the run before.

mod durable;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;

use chrono::{DateTime, Utc};
use pinwheel_tasks::{
    Alone, Connection, Connections, Context, Failure, FailureClass, Instance, Log, LogStream,
    Masks, Outcome, Registry,
};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    engine::{flow as step, presentable},
    model::{Dag, Params, RunState, Task, TaskState, template},
    secrets::{Environment, Sources},
    store::{Ending, Item},
};
use durable::Ledger;
use plan::{Place, Plan};

/// What a task is said to have done, instead of doing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mock {
    /// It succeeds.
    Success,
    /// It fails for good.
    Failed,
    /// It is skipped.
    Skipped,
    /// It succeeds, and chooses these.
    Branch(Vec<String>),
}

/// A mock that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no outcome")]
pub struct UnknownMock(pub String);

impl std::str::FromStr for Mock {
    type Err = UnknownMock;

    fn from_str(text: &str) -> Result<Self, UnknownMock> {
        match text {
            "success" => Ok(Self::Success),
            "failed" => Ok(Self::Failed),
            "skipped" => Ok(Self::Skipped),
            _other => {
                let ids = text
                    .strip_prefix("branch:")
                    .ok_or_else(|| UnknownMock(text.to_owned()))?;
                Ok(Self::Branch(
                    ids.split(',')
                        .map(str::trim)
                        .filter(|id| !id.is_empty())
                        .map(str::to_owned)
                        .collect(),
                ))
            }
        }
    }
}

/// One run to be made.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its logical date, and the data interval.
    pub logical_date: DateTime<Utc>,
    /// Start of the data interval, inclusive.
    pub data_interval_start: DateTime<Utc>,
    /// End of the data interval, exclusive.
    pub data_interval_end: DateTime<Utc>,
    /// Checked params.
    pub params: Params,
    /// By task id.
    pub mocks: BTreeMap<String, Mock>,
    /// What mocked tasks answer, by task id.
    pub outputs: BTreeMap<String, Value>,
    /// How many tasks run at once.
    pub slots: usize,
    /// Where variables and connections come from: the environment.
    pub sources: Sources,
}

/// What became of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The run's state.
    pub state: RunState,
    /// Every task's state, in topological order; of a mapped task the worst of its items.
    pub tasks: Map<String, Value>,
    /// The states of a mapped task's items, in their order.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub items: Map<String, Value>,
    /// Why a task did not run or did not succeed.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub reasons: Map<String, Value>,
}

/// What happens meanwhile, for people.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A task begins; `try_number` is 1 for the first try.
    Begins {
        /// What people call it.
        task: String,
        /// Which try.
        try_number: i32,
    },
    /// A line of a task's log.
    Line {
        /// What people call it.
        task: String,
        /// The line.
        line: String,
    },
    /// A task has its state.
    Ends {
        /// What people call it.
        task: String,
        /// Its state.
        state: TaskState,
        /// Why.
        reason: Option<String>,
    },
}

/// Runs a DAG to its end.
pub async fn run(
    dag: Arc<Dag>,
    registry: Registry,
    request: Request,
    cancel: CancellationToken,
    mut tell: impl FnMut(Event),
) -> Report {
    let mut plan = Plan::new(&dag);
    let mut running: JoinSet<(Place, i32, Ending)> = JoinSet::new();
    let (say, mut said) = mpsc::unbounded_channel();
    let ledger = Ledger::default();
    let request = Arc::new(request);
    for (place, state, reason) in plan.decide() {
        tell(ends(&plan, place, state, Some(reason)));
    }
    loop {
        while running.len() < request.slots.max(1)
            && !cancel.is_cancelled()
            && let Some(place) = plan.take()
        {
            let try_number = plan.tries(place);
            let runner = Runner {
                dag: Arc::clone(&dag),
                registry: registry.clone(),
                request: Arc::clone(&request),
                place,
                try_number,
                item: plan.item(place),
                outputs: plan.outputs(place),
                called: plan.called(place),
                ledger: ledger.clone(),
                cancel: cancel.clone(),
                say: say.clone(),
            };
            tell(Event::Begins {
                task: runner.called.clone(),
                try_number,
            });
            running.spawn(async move { (place, try_number, runner.run().await) });
        }
        if running.is_empty() {
            break;
        }
        let ended = loop {
            tokio::select! {
                biased;
                Some(event) = said.recv() => tell(event),
                Some(ended) = running.join_next() => break ended,
            }
        };
        while let Ok(event) = said.try_recv() {
            tell(event);
        }
        let Ok((place, try_number, ending)) = ended else {
            // The runner catches panics of kinds; its own would be a bug that must be seen.
            continue;
        };
        let made_final = plan.end(place, try_number, ending);
        if let Some((state, reason)) = made_final {
            tell(ends(&plan, place, state, reason));
        }
        for (place, state, reason) in plan.decide() {
            tell(ends(&plan, place, state, Some(reason)));
        }
    }
    plan.report()
}

fn ends(plan: &Plan<'_>, place: Place, state: TaskState, reason: Option<String>) -> Event {
    Event::Ends {
        task: plan.called(place),
        state,
        reason,
    }
}

/// One execution.
struct Runner {
    dag: Arc<Dag>,
    registry: Registry,
    request: Arc<Request>,
    place: Place,
    try_number: i32,
    item: Option<(Value, i32)>,
    outputs: BTreeMap<String, Value>,
    called: String,
    ledger: Ledger,
    cancel: CancellationToken,
    say: mpsc::UnboundedSender<Event>,
}

impl Runner {
    async fn run(self) -> Ending {
        let task = &self.dag.tasks[self.place.ordinal];
        let values = self.values(task);
        let (secrets, masks) = match self.secrets(task) {
            Ok(found) => found,
            Err(failure) => return Ending::Failed(failure),
        };
        let mock = self.request.mocks.get(task.id.as_str());
        let foreach = task.flow.foreach.as_ref().filter(|_| self.item.is_none());
        if let Some(foreach) = foreach {
            return presentable(step::expanded(task, foreach, &values, &secrets), &masks);
        }
        let ending = self
            .ending(task, &values, &secrets, mock, masks.clone())
            .await;
        presentable(step::checked(&self.dag, task, ending), &masks)
    }

    async fn ending(
        &self,
        task: &Task,
        values: &template::Values,
        secrets: &template::Secrets,
        mock: Option<&Mock>,
        masks: Masks,
    ) -> Ending {
        match step::is_wanted(task, values, secrets) {
            Ok(true) => {}
            Ok(false) => {
                return Ending::Skipped {
                    reason: step::not_wanted(task),
                };
            }
            // What it reads may be the output of a task that was mocked as well.
            Err(_unreadable) if mock.is_some() => {}
            Err(failure) => return Ending::Failed(failure),
        }
        match mock {
            Some(mock) => self.mocked(task, mock),
            None => self.execute(task, values, secrets, masks).await,
        }
    }

    /// What its templates read of variables and connections, and what must not be shown.
    fn secrets(&self, task: &Task) -> Result<(template::Secrets, Masks), Failure> {
        let mut texts = task.with.clone();
        if let Some(when) = &task.flow.when {
            texts.insert("when".to_owned(), Value::from(when.as_str()));
        }
        if let Some(foreach) = task.flow.foreach.as_ref().filter(|_| self.item.is_none()) {
            texts.insert("foreach".to_owned(), foreach.list.clone());
        }
        let reads = template::reads(&texts);
        let found = self
            .request
            .sources
            .look_up(&reads.connections, &reads.variables)
            .map_err(|error| Failure::permanent(error.to_string()))?;
        let masks = Masks::default();
        found.mask(&masks);
        Ok((found.for_templates(), masks))
    }

    fn mocked(&self, task: &Task, mock: &Mock) -> Ending {
        let given = self.request.outputs.get(task.id.as_str()).cloned();
        match mock {
            Mock::Success => Ending::Success {
                output: given.unwrap_or_else(|| Value::Object(Map::new())),
            },
            Mock::Branch(chosen) => Ending::Success {
                output: serde_json::json!({ "chosen": chosen }),
            },
            Mock::Skipped => Ending::Skipped {
                reason: "mocked".to_owned(),
            },
            Mock::Failed => Ending::Failed(Failure::permanent("mocked")),
        }
    }

    fn values(&self, task: &Task) -> template::Values {
        let mut outputs = self.outputs.clone();
        for above in &self.dag.tasks {
            // A task that answered nothing has an empty output.
            outputs
                .entry(above.id.to_string())
                .or_insert_with(|| match above.flow.foreach {
                    Some(_) => Value::Array(Vec::new()),
                    None => Value::Object(Map::new()),
                });
        }
        template::Values {
            params: self.request.params.clone(),
            outputs,
            dag_id: self.dag.id.to_string(),
            run_id: 0,
            task_id: task.id.to_string(),
            try_number: self.try_number,
            logical_date: self.request.logical_date,
            data_interval_start: self.request.data_interval_start,
            data_interval_end: self.request.data_interval_end,
            item: self.item.clone(),
            // As on a server for a run that was made by hand.
            triggering_datasets: self.dag.no_updates(),
        }
    }

    async fn execute(
        &self,
        task: &Task,
        values: &template::Values,
        secrets: &template::Secrets,
        masks: Masks,
    ) -> Ending {
        let Some(kind) = self.registry.get(&task.kind).cloned() else {
            return Ending::Failed(Failure::permanent(format!(
                "there is no kind `{}`",
                task.kind
            )));
        };
        let with = match template::render_with(&task.with, values, secrets) {
            Ok(with) => with,
            Err(error) => {
                let failure = Failure::permanent(error.message);
                return Ending::Failed(match error.hint {
                    Some(hint) => failure.with_hint(hint),
                    None => failure,
                });
            }
        };
        let (log, mut lines) = Log::channel(256);
        let cancel = self.cancel.child_token();
        let instance = Arc::new(Instance {
            dag_id: values.dag_id.clone(),
            run_id: values.run_id,
            task_id: values.task_id.clone(),
            instance_id: i64::try_from(self.place.instance).unwrap_or(i64::MAX),
            try_number: values.try_number,
            logical_date: values.logical_date,
            data_interval_start: values.data_interval_start,
            data_interval_end: values.data_interval_end,
            params: values.params.clone(),
        });
        let (say, called) = (self.say.clone(), self.called.clone());
        let mut shown = masks.lines();
        let reading = tokio::spawn(async move {
            while let Some((_, stream, line)) = lines.recv().await {
                let line = shown.line(stream, line);
                let line = match stream {
                    LogStream::Stdout | LogStream::Task => line,
                    LogStream::Stderr => format!("! {line}"),
                };
                let task = called.clone();
                // Nobody listens any more once the run is over.
                let _heard = say.send(Event::Line { task, line });
            }
        });
        let mut resume = None;
        let ending = loop {
            let context = Context {
                instance: Arc::clone(&instance),
                log: log.clone(),
                cancel: cancel.clone(),
                durable: self.ledger.of_instance(self.place.instance),
                orchestrator: Arc::new(Alone),
                connections: Arc::new(Given {
                    sources: self.request.sources.clone(),
                    masks: masks.clone(),
                }),
                resume: resume.take(),
            };
            let (kind, with) = (Arc::clone(&kind), with.clone());
            let mut running = tokio::spawn(async move { kind.run(&context, with).await });
            let ended = tokio::select! {
                biased;
                () = out_of_time(task.timeout) => {
                    cancel.cancel();
                    let _stopped = tokio::time::timeout(STOP_GRACE, &mut running).await;
                    running.abort();
                    let timeout = task.timeout.unwrap_or_default();
                    break Ending::Failed(Failure {
                        class: FailureClass::Timeout,
                        ..Failure::permanent(format!("it ran longer than its timeout of {timeout:?}"))
                    });
                }
                ended = &mut running => ended,
            };
            match ended {
                Ok(Ok(Outcome::Success { output })) => break Ending::Success { output },
                Ok(Ok(Outcome::Skipped { reason })) => break Ending::Skipped { reason },
                Ok(Ok(Outcome::Sleep {
                    wake_after,
                    reason,
                    resume: later,
                })) => {
                    log.say(format!("waits {wake_after:?}: {reason}")).await;
                    resume = Some(later);
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => break stopped(),
                        () = tokio::time::sleep(wake_after) => {}
                    }
                }
                Ok(Err(failure)) => break Ending::Failed(failure),
                Err(error) => {
                    break Ending::Failed(Failure {
                        class: FailureClass::Panic,
                        ..Failure::permanent(format!("its code panicked: {error}"))
                    });
                }
            }
        };
        drop(log);
        // The last lines come before the end.
        let _read = reading.await;
        ending
    }
}

/// Connections of the environment, for kinds that name them.
struct Given {
    sources: Sources,
    masks: Masks,
}

#[async_trait]
impl Connections for Given {
    async fn get(&self, id: &str) -> Result<Connection, Failure> {
        let found = self
            .sources
            .look_up(&BTreeSet::from([id.to_owned()]), &BTreeSet::new())
            .map_err(|error| Failure::permanent(error.to_string()))?;
        found.mask(&self.masks);
        found.connections.get(id).cloned().ok_or_else(|| {
            Failure::permanent(format!("there is no connection `{id}`")).with_hint(format!(
                "without a database it comes from the environment: `{}`",
                Environment::connection_variable(id)
            ))
        })
    }
}

const STOP_GRACE: Duration = Duration::from_secs(10);

fn stopped() -> Ending {
    Ending::Failed(Failure {
        class: FailureClass::Cancelled,
        ..Failure::permanent("stopped")
    })
}

async fn out_of_time(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

/// The items of one mapped task.
pub(super) type Items = Vec<Item>;

#[cfg(test)]
mod tests;
