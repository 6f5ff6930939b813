//! Tasks that ask the orchestrator, through the whole engine.

use pinwheel_tasks::{Orchestrator, OrchestratorError, WantedRun, light_kinds};

use super::*;
use crate::{
    engine::{clock::ShiftedClock, outage::Outage},
    model::{Dag, RunId},
    store::RunFilter,
};

/// The light kinds, and the kind `test`, which waits at the gate.
fn registry(gate: &Arc<Semaphore>) -> Registry {
    let gate = Arc::clone(gate);
    let gated = kinds(move |_, _| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(Outcome::success())
        }
    });
    Registry::new(light_kinds().into_iter().chain(gated.iter().cloned()))
}

fn of_kind(id: &str, kind: &str, with: serde_json::Value) -> Dag {
    let mut dag = dag(id, &[("a", &[])]);
    dag.tasks[0].kind = kind.to_owned();
    dag.tasks[0].with = with.as_object().unwrap().clone();
    dag.tasks[0].retries = 3;
    dag
}

async fn runs_of(store: &Store, dag: &Dag) -> Vec<RunId> {
    let filter = RunFilter {
        dag_id: Some(dag.id.clone()),
        limit: 10,
        ..RunFilter::default()
    };
    let runs = store.runs(&filter).await.unwrap();
    runs.iter().map(|run| run.run_id).collect()
}

/// Waits until the only task of a run sleeps with a note that ends so.
async fn until_asleep(store: &Store, engine: &Engine, run: RunId, note: &str) {
    let mut changes = engine.changes();
    let asleep = async {
        loop {
            let instance = store.instances(run).await.unwrap().remove(0);
            match instance.state {
                TaskState::Sleeping => {
                    if instance.sleep_note.unwrap_or_default().ends_with(note) {
                        return;
                    }
                }
                TaskState::Queued | TaskState::Running => {}
                other => panic!("it is {other:?} and does not sleep"),
            }
            changes.next().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asleep)
        .await
        .expect("it falls asleep");
}

#[tokio::test]
async fn a_task_that_runs_another_dag_sleeps_until_that_has_ended_and_never_runs_it_twice() {
    let (store, _) = fresh_store().await;
    let child = dag("child", &[("work", &[])]);
    let with = json!({"dag": "child", "wait": true, "poke_interval": "1h"});
    let parent = of_kind("parent", "trigger_dag", with);
    publish(&store, &child).await;
    publish(&store, &parent).await;
    let gate = Arc::new(Semaphore::new(0));
    let clock = Arc::new(ShiftedClock::default());
    let engine = start_with(
        &store,
        registry(&gate),
        Roles::Both,
        options("test"),
        Arc::clone(&clock) as Arc<dyn Clock>,
    )
    .await;
    let run = trigger(&store, &parent).await;
    engine.bell().ring();
    until_asleep(&store, &engine, run, "").await;
    let made = runs_of(&store, &child).await;
    assert_eq!(made.len(), 1);
    let child_run = store.run(made[0]).await.unwrap().unwrap();
    assert!(
        child_run.triggered_by.starts_with("task a of parent run "),
        "{}",
        child_run.triggered_by
    );
    gate.add_permits(1);
    assert_eq!(
        run_end(&store, engine.changes(), made[0]).await,
        RunState::Success
    );
    clock.advance(TimeDelta::hours(1));
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Success
    );
    let tries = |run| {
        let store = store.clone();
        async move {
            let instance = store.instances(run).await.unwrap()[0].instance_id;
            let tries = store.tries(instance).await.unwrap();
            tries
                .iter()
                .map(|row| row.try_number)
                .collect::<std::collections::BTreeSet<_>>()
                .len()
        }
    };
    assert_eq!(tries(run).await, 1, "a sleep is no try");

    // A clear finds the run that was made.
    let request = ClearRequest {
        run_id: run,
        selection: ClearSelection::Tasks(vec![crate::model::TaskId::new("a").unwrap()]),
        scope: ClearScope::Only,
        version: crate::store::ClearVersion::Same,
        actor: "a test".to_owned(),
    };
    store.clear(request).await.unwrap();
    engine.bell().ring();
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Success
    );
    assert_eq!(runs_of(&store, &child).await, made);
    finish(engine).await;
}

#[tokio::test]
async fn a_sensor_gives_up_by_the_orchestrators_clock_and_holds_nothing_until_then() {
    let (store, _) = fresh_store().await;
    limit_pool(&store, "default", 1).await;
    let other = dag("other", &[("work", &[])]);
    let with = json!({"dag": "other", "poke_interval": "1h", "timeout": "30m", "soft_fail": true});
    let waiting = of_kind("waiting", "wait_for_run", with);
    publish(&store, &other).await;
    publish(&store, &waiting).await;
    let gate = Arc::new(Semaphore::new(0));
    let clock = Arc::new(ShiftedClock::default());
    let engine = start_with(
        &store,
        registry(&gate),
        Roles::Both,
        Options {
            slots: 1,
            ..options("test")
        },
        Arc::clone(&clock) as Arc<dyn Clock>,
    )
    .await;
    let run = trigger(&store, &waiting).await;
    engine.bell().ring();
    until_asleep(&store, &engine, run, "does not exist yet (after 1 look)").await;
    // The only slot of the worker and of the pool is free for others.
    gate.add_permits(1);
    let between = trigger(&store, &other).await;
    engine.bell().ring();
    assert_eq!(
        run_end(&store, engine.changes(), between).await,
        RunState::Success
    );
    clock.advance(TimeDelta::minutes(30));
    run_end(&store, engine.changes(), run).await;
    assert_eq!(states(&store, run).await["a"], TaskState::Skipped);
    finish(engine).await;
}

#[tokio::test]
async fn the_same_asker_finds_its_run_and_another_one_does_not() {
    let (store, _) = fresh_store().await;
    publish(&store, &dag("child", &[("work", &[])])).await;
    let clock = ShiftedClock::default();
    let runs = Runs::new(
        store.clone(),
        Bell::new(),
        Outage::of(&store),
        clock.shift(),
    );
    let wanted = |dag_id: &str, asker: &str| WantedRun {
        dag_id: dag_id.to_owned(),
        logical_date: "2026-01-01T00:00:00.000001Z".parse().unwrap(),
        params: Default::default(),
        asker: asker.to_owned(),
    };
    let made = runs.trigger(&wanted("child", "one")).await.unwrap();
    assert_eq!(runs.trigger(&wanted("child", "one")).await.unwrap(), made);
    assert_eq!(
        runs.trigger(&wanted("child", "other")).await,
        Err(OrchestratorError::Taken {
            run_id: made.run_id
        })
    );
    assert_eq!(runs.run(made.run_id).await.unwrap(), Some(made.clone()));
    assert_eq!(runs.run(made.run_id + 1).await.unwrap(), None);
    for which in [
        pinwheel_tasks::WhichRun::Last,
        pinwheel_tasks::WhichRun::Of(made.logical_date),
    ] {
        let found = runs.run_of("child", which).await.unwrap();
        assert_eq!(found, Some(made.clone()));
    }
    let elsewhere = pinwheel_tasks::WhichRun::Of(made.logical_date - TimeDelta::days(1));
    assert_eq!(runs.run_of("child", elsewhere).await.unwrap(), None);
    let OrchestratorError::Refused { message, hint } =
        runs.trigger(&wanted("chidl", "one")).await.unwrap_err()
    else {
        panic!("it is no DAG");
    };
    assert_eq!(message, "unknown DAG `chidl`");
    assert!(hint.is_some_and(|hint| hint.contains("`child`")));
    assert!(runs.run_of("chidl", elsewhere).await.is_err());

    let before = runs.now().await.unwrap();
    clock.advance(TimeDelta::days(1));
    assert!(runs.now().await.unwrap() - before >= TimeDelta::days(1));
}
