//! What the tests of this crate share: DAGs made in code, kinds made of closures, and a store on a fresh database.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::BoxFuture;
use pinwheel_tasks::{Context, Failure, Field, Kind, Outcome, Outputs, Registry};
use pinwheel_test_support::postgres::Postgres;
use serde_json::{Map, Value};

use crate::{
    engine::Changes,
    model::{
        Alerts, Catchup, Dag, DagId, Overlap, Params, RunId, RunKind, RunState, Task, TaskId,
        TaskState, TriggerRule,
        flow::{Shape, setups},
    },
    store::{NewRun, Store},
};

/// A migrated store on a database of its own, and the URL of that database.
pub(crate) async fn fresh_store() -> (Store, String) {
    let url = Postgres::shared()
        .fresh_database(|url| async move {
            let store = Store::connect(&url).await.unwrap();
            store.migrate().await.unwrap();
        })
        .await;
    (Store::connect(&url).await.unwrap(), url)
}

/// A DAG of tasks of the kind `test`, each with its upstream tasks; in topological order.
pub(crate) fn dag(id: &str, tasks: &[(&str, &[&str])]) -> Dag {
    let mut made: Vec<Task> = Vec::new();
    for (ordinal, (name, after)) in tasks.iter().enumerate() {
        let upstream: Vec<usize> = after
            .iter()
            .map(|above| {
                made.iter()
                    .position(|task| task.id.as_str() == *above)
                    .unwrap()
            })
            .collect();
        for above in &upstream {
            made[*above].downstream.push(ordinal);
        }
        made.push(task(name, upstream));
    }
    Dag {
        id: DagId::new(id).unwrap(),
        description: String::new(),
        schedule: None,
        start: None,
        end: None,
        catchup: Catchup::None,
        catchup_window: None,
        jitter: None,
        overlap: Overlap::Queue,
        max_active_runs: 1_000,
        max_active_tasks: None,
        datasets: None,
        alerts: Alerts::default(),
        timeout: None,
        params: BTreeMap::new(),
        groups: Default::default(),
        tasks: made,
    }
}

/// The DAG with one task changed, and what follows from it.
pub(crate) fn change(mut dag: Dag, id: &str, change: impl FnOnce(&mut Task)) -> Dag {
    let (ordinal, _) = dag.task(id).unwrap();
    change(&mut dag.tasks[ordinal]);
    let shapes: Vec<Shape> = dag
        .tasks
        .iter()
        .map(|task| Shape {
            upstream: task.upstream.clone(),
            setup: task.flow.setup,
            teardown: task.flow.teardown,
        })
        .collect();
    for (task, setups) in dag.tasks.iter_mut().zip(setups(&shapes)) {
        task.flow.setups = setups;
    }
    dag
}

fn task(name: &str, mut upstream: Vec<usize>) -> Task {
    upstream.sort_unstable();
    Task {
        id: TaskId::new(name).unwrap(),
        kind: "test".to_owned(),
        upstream,
        downstream: Vec::new(),
        trigger_rule: TriggerRule::AllSuccess,
        retries: 0,
        retry_delay: Duration::from_secs(3600),
        retry: crate::model::retry::RetryRules::default(),
        queue_timeout: None,
        timeout: None,
        pool: "default".to_owned(),
        queue: "default".to_owned(),
        priority: 0,
        slots: 1,
        allow_failure: false,
        concurrency: None,
        flow: Default::default(),
        outlets: Vec::new(),
        with: Map::new(),
    }
}

/// Publishes a DAG made in code; its source is its definition.
pub(crate) async fn publish(store: &Store, dag: &Dag) {
    store
        .publish(
            &format!("{}.toml", dag.id),
            &serde_json::to_string(dag).unwrap(),
            dag,
        )
        .await
        .unwrap();
}

pub(crate) async fn trigger(store: &Store, dag: &Dag) -> RunId {
    store
        .trigger(NewRun {
            dag_id: dag.id.clone(),
            kind: RunKind::Manual,
            logical_date: None,
            params: Params::new(),
            triggered_by: "a test".to_owned(),
        })
        .await
        .unwrap()
}

/// The states of a run's tasks, by task id.
pub(crate) async fn states(store: &Store, run: RunId) -> BTreeMap<String, TaskState> {
    store
        .instances(run)
        .await
        .unwrap()
        .into_iter()
        .map(|row| (row.task_id.to_string(), row.state))
        .collect()
}

pub(crate) async fn run_state(store: &Store, run: RunId) -> RunState {
    store.run(run).await.unwrap().unwrap().state
}

/// Waits for a run to be final, looking whenever something has changed.
pub(crate) async fn run_end(store: &Store, mut changes: Changes, run: RunId) -> RunState {
    let end = async {
        loop {
            match store.run(run).await {
                Ok(row) => {
                    let state = row.unwrap().state;
                    if state.is_final() {
                        return state;
                    }
                }
                Err(error) if error.is_unavailable() => {}
                Err(error) => panic!("{error}"),
            }
            // A bell may be lost while Postgres is away, so the look is repeated.
            let _changed = tokio::time::timeout(Duration::from_millis(500), changes.next()).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), end)
        .await
        .expect("the run ends within a minute")
}

type Body = dyn Fn(Context, Map<String, Value>) -> BoxFuture<'static, Result<Outcome, Failure>>
    + Send
    + Sync;

/// The kind `test`: a closure.
pub(crate) struct Closure(&'static str, Arc<Body>);

/// A registry whose kind `test` is this closure.
pub(crate) fn kinds<F>(
    body: impl Fn(Context, Map<String, Value>) -> F + Send + Sync + 'static,
) -> Registry
where
    F: Future<Output = Result<Outcome, Failure>> + Send + 'static,
{
    kinds_named(&["test"], body)
}

/// The same for kinds of several names.
pub(crate) fn kinds_named<F>(
    names: &[&'static str],
    body: impl Fn(Context, Map<String, Value>) -> F + Send + Sync + 'static,
) -> Registry
where
    F: Future<Output = Result<Outcome, Failure>> + Send + 'static,
{
    let body: Arc<Body> = Arc::new(move |context, with| Box::pin(body(context, with)));
    Registry::new(names.iter().map(|name| {
        let kind: Arc<dyn Kind> = Arc::new(Closure(name, Arc::clone(&body)));
        kind
    }))
}

#[async_trait]
impl Kind for Closure {
    fn name(&self) -> &'static str {
        self.0
    }

    fn summary(&self) -> &'static str {
        "Does what the test says"
    }

    fn fields(&self) -> &'static [Field] {
        &[]
    }

    fn outputs(&self) -> Outputs {
        Outputs::Free
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        (self.1)(context.clone(), with).await
    }
}

static GATE: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(0);

/// Waits for [`open_gate`].
pub(crate) async fn gate() {
    GATE.acquire().await.unwrap().forget();
}

/// Lets everybody through the gate.
pub(crate) fn open_gate() {
    GATE.add_permits(1_000);
}
