//! One execution of a try: render, run, watch the clock and the stop signal, and say how it ended.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use pinwheel_tasks::{
    Context, Failure, FailureClass, Instance, LARGEST_OUTPUT_BYTES, Log, Masks, Outcome, Registry,
    masks, output_too_large,
};
use serde_json::{Map, Value};
use tokio::{
    task::{JoinError, JoinHandle},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    flow,
    lookups::Lookups,
    orchestrate::Runs,
    outage::{Outage, Pauses},
    recorder::Recorder,
};
use crate::{
    model::{InstanceId, template},
    secrets::Vault,
    store::{self, Claimed, Ended, Ending, Fenced, LogLine, Span, Store},
};

/// How long a kind may take to stop after it was told to; then its task is aborted.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// The same for a process that has to end at once.
const SHORT_STOP_GRACE: Duration = Duration::from_secs(1);
/// How long an aborted kind is awaited: dropping it is what ends its processes, and before that nobody else may have the
/// task. One that does not yield is not dropped.
const ABORT_GRACE: Duration = Duration::from_secs(1);
const LOG_BUFFER: usize = 256;

/// How to stop an execution, and why it was stopped.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop {
    token: CancellationToken,
    why: Arc<AtomicU8>,
}

/// Why an execution was stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It is not this worker's any more: its run was cancelled, or somebody else has it.
    NotOurs,
    /// The worker cannot be sure of its lease.
    LeaseInDoubt,
    /// The worker stops.
    Shutdown,
}

impl Stop {
    pub(super) fn stop(&self, why: Why) {
        let code = match why {
            Why::NotOurs => 1,
            Why::LeaseInDoubt => 2,
            Why::Shutdown => 3,
        };
        let _first_wins = self
            .why
            .compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
        self.token.cancel();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.token.is_cancelled()
    }

    fn why(&self) -> Option<Why> {
        match self.why.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Why::NotOurs),
            2 => Some(Why::LeaseInDoubt),
            _shutdown => Some(Why::Shutdown),
        }
    }
}

/// What executions need from their worker. Cheap to clone.
#[derive(Clone)]
pub(super) struct Executor {
    pub(super) store: Store,
    pub(super) vault: Vault,
    pub(super) registry: Registry,
    pub(super) recorder: Recorder,
    pub(super) outage: Outage,
    pub(super) runs: Runs,
    /// Shortens what stopped kinds are given.
    pub(super) stop_at_once: CancellationToken,
}

impl Executor {
    /// Runs a claimed task instance to the end of its execution. Never panics, never gives up an execution: whatever
    /// happens, it says how it ended.
    pub(super) async fn execute(&self, claimed: Claimed, stop: Stop) -> Ended {
        let lookups = Lookups {
            vault: self.vault.clone(),
            outage: self.outage.clone(),
            masks: Masks::default(),
            stop: stop.token.clone(),
        };
        let mut lines = Lines {
            next: 1,
            touched: false,
            masked: lookups.masks.lines(),
        };
        let began = std::time::Instant::now();
        let ending = self.run(&claimed, &stop, &mut lines, &lookups).await;
        let ending = presentable(ending, &lookups.masks);
        let span = Span {
            began,
            ended: std::time::Instant::now(),
        };
        let ending = if stop.why().is_some() {
            Ending::GivenBack
        } else {
            ending
        };
        let (lines, rendered) = if lines.touched {
            self.recorder.take(claimed.execution.instance_id).await
        } else {
            (Vec::new(), None)
        };
        Ended {
            execution: claimed.execution,
            ending,
            lines,
            rendered,
            span: Some(span),
        }
    }

    async fn run(
        &self,
        claimed: &Claimed,
        stop: &Stop,
        lines: &mut Lines,
        lookups: &Lookups,
    ) -> Ending {
        let task = claimed.task();
        let Some(kind) = self.registry.get(&task.kind).cloned() else {
            return Ending::Failed(
                Failure::permanent(format!("this worker knows no kind `{}`", task.kind))
                    .with_hint("run a worker of the version that knows it, or give the task a queue of its own"),
            );
        };
        let with = match self.prepare(claimed, stop, lookups).await {
            Ok(Prepared::Run(with)) => with,
            Ok(Prepared::Ended(ending)) => return ending,
            Err(failure) => return Ending::Failed(failure),
        };
        if with != task.with {
            lines.touched = true;
            let rendered = lookups.masks.value(&Value::Object(with.clone()));
            self.recorder.rendered(
                claimed.execution.instance_id,
                claimed.execution.tries,
                rendered,
            );
        }
        let (log, mut written) = Log::channel(LOG_BUFFER);
        let cancel = stop.token.child_token();
        let context = Context {
            instance: Arc::new(instance(claimed)),
            log,
            cancel: cancel.clone(),
            durable: Arc::new(Fenced::new(self.store.clone(), &claimed.execution)),
            orchestrator: Arc::new(self.runs.for_execution(cancel.clone())),
            connections: Arc::new(lookups.clone()),
            resume: claimed.resume.clone(),
        };
        let mut running = tokio::spawn(async move { kind.run(&context, with).await });
        let deadline = task
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        let mut timed_out = false;
        let ended = loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break self.wind_down(claimed, &mut running, &mut written, lines).await,
                () = sleep_until(deadline) => {
                    timed_out = true;
                    cancel.cancel();
                }
                ended = &mut running => break Some(ended),
                Some(line) = written.recv() => self.line(claimed, lines, line).await,
            }
        };
        written.close();
        while let Some(line) = written.recv().await {
            self.line(claimed, lines, line).await;
        }
        if timed_out {
            let timeout = task.timeout.unwrap_or_default();
            return Ending::Failed(Failure {
                class: FailureClass::Timeout,
                message: format!("it ran longer than its timeout of {timeout:?}"),
                hint: Some("give the task a longer `timeout`, or less to do".to_owned()),
                exit_code: None,
            });
        }
        match ended {
            Some(Ok(Ok(Outcome::Success { output }))) => {
                flow::checked(&claimed.dag, task, Ending::Success { output })
            }
            Some(Ok(Ok(Outcome::Skipped { reason }))) => Ending::Skipped { reason },
            Some(Ok(Ok(Outcome::Sleep {
                wake_after,
                reason,
                resume,
            }))) => Ending::Sleep {
                wake_after,
                reason,
                resume,
            },
            Some(Ok(Err(failure))) => Ending::Failed(failure),
            Some(Err(error)) => Ending::Failed(panicked(error)),
            // It was stopped and did not stop; the caller knows why.
            None => Ending::GivenBack,
        }
    }

    /// Lets a stopped kind clean up after itself, for a while, and keeps taking its lines.
    async fn wind_down(
        &self,
        claimed: &Claimed,
        running: &mut JoinHandle<Result<Outcome, Failure>>,
        written: &mut tokio::sync::mpsc::Receiver<Written>,
        lines: &mut Lines,
    ) -> Option<Result<Result<Outcome, Failure>, JoinError>> {
        let mut latest = Instant::now() + STOP_GRACE;
        let mut in_haste = false;
        loop {
            tokio::select! {
                biased;
                ended = &mut *running => return Some(ended),
                () = self.stop_at_once.cancelled(), if !in_haste => {
                    in_haste = true;
                    latest = latest.min(Instant::now() + SHORT_STOP_GRACE);
                }
                () = tokio::time::sleep_until(latest) => {
                    running.abort();
                    let _dropped = tokio::time::timeout(ABORT_GRACE, running).await;
                    return None;
                }
                // Last, or a kind that only talks would never be aborted.
                Some(line) = written.recv() => self.line(claimed, lines, line).await,
            }
        }
    }

    async fn line(&self, claimed: &Claimed, lines: &mut Lines, (at, stream, message): Written) {
        lines.touched = true;
        let message = lines.masked.line(stream, message);
        let line = LogLine {
            instance_id: claimed.execution.instance_id,
            epoch: claimed.execution.epoch,
            line: lines.next,
            try_number: claimed.execution.tries,
            at,
            stream,
            message,
        };
        lines.next = lines.next.saturating_add(1);
        self.recorder.line(line).await;
    }

    /// What comes before the kind: whether the task is wanted, its items, its templates.
    async fn prepare(
        &self,
        claimed: &Claimed,
        stop: &Stop,
        lookups: &Lookups,
    ) -> Result<Prepared, Failure> {
        let task = claimed.task();
        let foreach = task
            .flow
            .foreach
            .as_ref()
            .filter(|_| claimed.item.is_none());
        if task.with.is_empty() && task.flow.when.is_none() && foreach.is_none() {
            return Ok(Prepared::Run(Map::new()));
        }
        let mut texts = task.with.clone();
        if let Some(when) = &task.flow.when {
            texts.insert("when".to_owned(), Value::from(when.as_str()));
        }
        if let Some(foreach) = foreach {
            texts.insert("foreach".to_owned(), foreach.list.clone());
        }
        let reads = template::reads(&texts);
        let secrets = lookups.for_templates(&reads).await?.for_templates();
        let mut outputs = BTreeMap::new();
        if !reads.tasks.is_empty() {
            let ordinals: Vec<(i32, &str)> = reads
                .tasks
                .iter()
                .filter_map(|id| {
                    let (ordinal, task) = claimed.dag.task(id)?;
                    Some((i32::try_from(ordinal).ok()?, task.id.as_str()))
                })
                .collect();
            let stored = self.outputs(claimed, &ordinals, stop).await?;
            for (ordinal, id) in ordinals {
                // A task that answered nothing has an empty output; a name in it is then the template's error.
                let output =
                    stored
                        .get(&ordinal)
                        .cloned()
                        .unwrap_or_else(|| match claimed.dag.task(id) {
                            Some((_, task)) if task.flow.foreach.is_some() => {
                                Value::Array(Vec::new())
                            }
                            Some(_) | None => Value::Object(Map::new()),
                        });
                outputs.insert(id.to_owned(), output);
            }
        }
        let mut triggering_datasets = BTreeMap::new();
        if let Some(awaited) = &claimed.dag.datasets
            && template::reads_datasets(&task.with)
        {
            triggering_datasets = self.datasets(claimed, stop).await?;
            for name in awaited.names() {
                triggering_datasets.entry(name.to_string()).or_default();
            }
        }
        let values = template::Values {
            params: claimed.params.clone(),
            outputs,
            triggering_datasets,
            dag_id: claimed.dag_id.to_string(),
            run_id: claimed.execution.run_id.0,
            task_id: task.id.to_string(),
            try_number: claimed.execution.tries,
            logical_date: claimed.logical_date,
            data_interval_start: claimed.data_interval_start,
            data_interval_end: claimed.data_interval_end,
            item: claimed.item.clone(),
        };
        // Of a list it is asked item by item: that may read the item.
        if foreach.is_none() && !flow::is_wanted(task, &values, &secrets)? {
            return Ok(Prepared::Ended(Ending::Skipped {
                reason: flow::not_wanted(task),
            }));
        }
        if let Some(foreach) = foreach {
            return Ok(Prepared::Ended(flow::expanded(
                task, foreach, &values, &secrets,
            )));
        }
        template::render_with(&task.with, &values, &secrets)
            .map(Prepared::Run)
            .map_err(|error| {
                let failure = Failure::permanent(format!(
                    "the template in `{}` cannot be rendered: {}",
                    error.path, error.message
                ));
                match error.hint {
                    Some(hint) => failure.with_hint(hint),
                    None => failure,
                }
            })
    }

    /// The outputs that templates read. Waits while Postgres is away: that is no fault of the task.
    async fn outputs(
        &self,
        claimed: &Claimed,
        ordinals: &[(i32, &str)],
        stop: &Stop,
    ) -> Result<BTreeMap<i32, Value>, Failure> {
        let ordinals: Vec<i32> = ordinals.iter().map(|(ordinal, _)| *ordinal).collect();
        let run_id = claimed.execution.run_id;
        self.ask("the outputs of upstream tasks", stop, || {
            self.store.outputs(run_id, &ordinals)
        })
        .await
    }

    /// The events that made the run. Waits in the same way.
    async fn datasets(
        &self,
        claimed: &Claimed,
        stop: &Stop,
    ) -> Result<BTreeMap<String, Vec<Value>>, Failure> {
        let run_id = claimed.execution.run_id;
        self.ask("the events that made the run", stop, || {
            self.store.triggering_datasets(run_id)
        })
        .await
    }

    async fn ask<T, F: Future<Output = Result<T, store::Error>>>(
        &self,
        what: &str,
        stop: &Stop,
        question: impl Fn() -> F,
    ) -> Result<T, Failure> {
        let mut pauses = Pauses::default();
        loop {
            let asking = self.outage.asking();
            match question().await {
                Ok(answer) => {
                    asking.answered();
                    return Ok(answer);
                }
                Err(error) if error.is_unavailable() => asking.failed(&error),
                Err(error) => {
                    return Err(Failure::retryable(format!(
                        "{what} cannot be read: {error}"
                    )));
                }
            }
            tokio::select! {
                biased;
                () = stop.token.cancelled() => return Err(Failure::retryable("stopped while Postgres was away")),
                () = tokio::time::sleep(pauses.next()) => {}
            }
        }
    }
}

/// What an execution has to do.
enum Prepared {
    /// Run the kind with this.
    Run(Map<String, Value>),
    /// Nothing: it has ended so.
    Ended(Ending),
}

type Written = (
    chrono::DateTime<chrono::Utc>,
    pinwheel_tasks::LogStream,
    String,
);

struct Lines {
    next: i32,
    /// Something of this execution went to the recorder.
    touched: bool,
    masked: masks::Lines,
}

/// The ending as it may be kept and shown: no word of it holds a secret, and an output that holds one, or is too large,
/// fails its task.
pub(crate) fn presentable(ending: Ending, masks: &Masks) -> Ending {
    match ending {
        Ending::Success { output } => match refused(&output, masks) {
            Some(failure) => Ending::Failed(failure),
            None => Ending::Success { output },
        },
        Ending::Failed(failure) if !masks.is_empty() => Ending::Failed(Failure {
            message: masks.text(&failure.message).into_owned(),
            hint: failure.hint.map(|hint| masks.text(&hint).into_owned()),
            ..failure
        }),
        Ending::Skipped { reason } => Ending::Skipped {
            reason: masks.text(&reason).into_owned(),
        },
        Ending::Sleep {
            wake_after,
            reason,
            resume,
        } => match masks.revealed_in(&resume) {
            Some(revealed) => Ending::Failed(
                Failure::permanent(format!(
                    "what it wants to keep while it sleeps holds {}",
                    revealed.whose
                ))
                .with_hint("keep the name of the connection or variable and read it again"),
            ),
            None => Ending::Sleep {
                wake_after,
                reason: masks.text(&reason).into_owned(),
                resume,
            },
        },
        Ending::Expanded { items } => {
            let revealed = items
                .iter()
                .find_map(|one| Some(masks.revealed_in(&one.item)?.whose));
            match revealed {
                Some(whose) => Ending::Failed(
                    Failure::permanent(format!("an item of its list holds {whose}")).with_hint(
                        "let the list name connections or variables, and read them in `with`",
                    ),
                ),
                None => Ending::Expanded { items },
            }
        }
        Ending::Failed(_) | Ending::GivenBack => ending,
    }
}

fn refused(output: &Value, masks: &Masks) -> Option<Failure> {
    if let Some(revealed) = masks.revealed_in(output) {
        let place = match revealed.path.as_str() {
            "" => "its output".to_owned(),
            path => format!("its output `{path}`"),
        };
        return Some(
            Failure::permanent(format!(
                "{place} holds {}, and outputs are kept and shown",
                revealed.whose
            ))
            .with_hint(
                "leave the secret out; a task that needs it reads it itself, with `{{ var.… }}` or `{{ conn.… }}`",
            ),
        );
    }
    let bytes = json_bytes(output);
    (bytes > LARGEST_OUTPUT_BYTES).then(|| output_too_large(bytes))
}

/// How long a value is as JSON, without writing it down.
fn json_bytes(value: &Value) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // A counter refuses nothing, and a value has only text keys.
    let _counted = serde_json::to_writer(&mut counter, value);
    counter.0
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn instance(claimed: &Claimed) -> Instance {
    let InstanceId(instance_id) = claimed.execution.instance_id;
    Instance {
        dag_id: claimed.dag_id.to_string(),
        run_id: claimed.execution.run_id.0,
        task_id: claimed.task().id.to_string(),
        instance_id,
        try_number: claimed.execution.tries,
        logical_date: claimed.logical_date,
        data_interval_start: claimed.data_interval_start,
        data_interval_end: claimed.data_interval_end,
        params: claimed.params.clone(),
    }
}

fn panicked(error: JoinError) -> Failure {
    let message = match error.try_into_panic() {
        Ok(payload) => format!("its code panicked: {}", panic_message(payload.as_ref())),
        Err(error) => format!("its code was aborted: {error}"),
    };
    Failure {
        class: FailureClass::Panic,
        message,
        hint: Some("this is a bug in the kind of task; its log may say more".to_owned()),
        exit_code: None,
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
