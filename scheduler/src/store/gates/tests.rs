//! Gates against a real Postgres.

use std::collections::BTreeSet;

use pinwheel_tasks::Failure;
use serde_json::json;

use crate::{
    model::{
        Concurrency, Dag, InstanceId, Param, ParamType, Params, RunId, RunKind, TaskState, WorkerId,
    },
    store::{
        Claimed, Ending, NewRun, Store,
        tests::{check_invariants, claim, ended, limit_pool, number, register, success},
    },
    testing::{dag, fresh_store, publish, run_state, states, trigger},
};

/// Claims until nothing more can be had, as a worker does that is told to look again.
async fn claim_all(store: &Store, worker: WorkerId, slots: usize) -> Vec<Claimed> {
    let mut all = Vec::new();
    loop {
        let appetite = crate::store::Appetite {
            worker_id: worker,
            queues: &["default".to_owned()],
            slots: slots - all.len(),
        };
        let taken = store.claim(appetite).await.unwrap();
        all.extend(taken.claimed);
        if !taken.look_again || all.len() == slots {
            return all;
        }
    }
}

fn wide(id: &str, tasks: usize) -> Dag {
    let names: Vec<String> = (0..tasks).map(|number| format!("t{number}")).collect();
    let tasks: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &[][..])).collect();
    dag(id, &tasks)
}

fn keyed(id: &str, tasks: usize, key: &str, limit: u32) -> Dag {
    let mut dag = wide(id, tasks);
    for task in &mut dag.tasks {
        task.concurrency = Some(Concurrency {
            key: key.to_owned(),
            limit,
        });
    }
    dag
}

fn instances(claimed: &[Claimed]) -> BTreeSet<InstanceId> {
    claimed
        .iter()
        .map(|one| one.execution.instance_id)
        .collect()
}

#[tokio::test]
async fn max_active_tasks_lets_so_many_tasks_of_a_run_through_at_a_time() {
    let (store, _) = fresh_store().await;
    let mut wide = wide("wide", 5);
    wide.max_active_tasks = Some(2);
    publish(&store, &wide).await;
    let run = trigger(&store, &wide).await;
    let other = trigger(&store, &wide).await;
    let worker = register(&store, "w").await;
    let mut held = claim_all(&store, worker, 16).await;
    assert_eq!(held.len(), 4, "two of each run");
    let mut done = 0;
    while !held.is_empty() {
        let of_run = |run: RunId| {
            held.iter()
                .filter(|one| one.execution.run_id == run)
                .count()
        };
        assert!(of_run(run) <= 2 && of_run(other) <= 2);
        store
            .settle(&[ended(held.remove(0), success())])
            .await
            .unwrap();
        done += 1;
        held.extend(claim_all(&store, worker, 16).await);
        check_invariants(&store).await;
    }
    assert_eq!(done, 10);
    assert!(run_state(&store, run).await.is_final());
    assert_eq!(number(&store, "select count(*) from gate_use").await, 0);
    assert_eq!(number(&store, "select count(*) from parked").await, 0);
}

#[tokio::test]
async fn a_concurrency_key_is_shared_by_dags_and_rendered_from_params() {
    let (store, _) = fresh_store().await;
    let with_param = |id: &str| {
        let mut dag = keyed(id, 1, "customer-{{ params.customer }}", 1);
        dag.params.insert(
            "customer".to_owned(),
            Param {
                param_type: ParamType::String,
                default: None,
                description: String::new(),
                minimum: None,
                maximum: None,
                pattern: None,
                choices: Vec::new(),
            },
        );
        dag
    };
    let (one, two) = (with_param("one"), with_param("two"));
    publish(&store, &one).await;
    publish(&store, &two).await;
    let trigger = async |dag: &Dag, customer: &str| {
        let run = NewRun {
            dag_id: dag.id.clone(),
            kind: RunKind::Manual,
            logical_date: None,
            params: Params::from_iter([("customer".to_owned(), json!(customer))]),
            triggered_by: "a test".to_owned(),
        };
        store.trigger(run).await.unwrap()
    };
    let first = trigger(&one, "acme").await;
    let second = trigger(&two, "acme").await;
    let other = trigger(&one, "other").await;
    let worker = register(&store, "w").await;
    let mut held = claim_all(&store, worker, 16).await;
    let runs: BTreeSet<RunId> = held.iter().map(|one| one.execution.run_id).collect();
    assert_eq!(runs, BTreeSet::from([first, other]));
    let at_first = held
        .iter()
        .position(|one| one.execution.run_id == first)
        .unwrap();
    store
        .settle(&[ended(held.remove(at_first), success())])
        .await
        .unwrap();
    let next = claim_all(&store, worker, 16).await;
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].execution.run_id, second);
}

#[tokio::test]
async fn what_a_full_gate_holds_back_delays_no_other_task() {
    let (store, _) = fresh_store().await;
    let busy = keyed("busy", 300, "busy", 1);
    publish(&store, &busy).await;
    trigger(&store, &busy).await;
    let worker = register(&store, "w").await;
    let held = claim_all(&store, worker, 16).await;
    assert_eq!(held.len(), 1);
    let free = wide("free", 8);
    publish(&store, &free).await;
    trigger(&store, &free).await;
    let others = claim(&store, worker, 8).await;
    assert_eq!(others.len(), 8, "all of them in the first look");
}

#[tokio::test]
async fn a_task_that_sleeps_leaves_its_gate_to_others() {
    let (store, _) = fresh_store().await;
    let mut pair = keyed("pair", 2, "one at a time", 1);
    pair.tasks[0].retries = 1;
    pair.tasks[1].retries = 1;
    publish(&store, &pair).await;
    trigger(&store, &pair).await;
    let worker = register(&store, "w").await;
    let mut first = claim_all(&store, worker, 16).await;
    assert_eq!(first.len(), 1);
    let instance = instances(&first);
    let fails = Ending::Failed(Failure::retryable("not yet"));
    store
        .settle(&[ended(first.remove(0), fails)])
        .await
        .unwrap();
    let second = claim_all(&store, worker, 16).await;
    assert_eq!(second.len(), 1);
    assert!(instances(&second).is_disjoint(&instance));
}

#[tokio::test]
async fn cancelling_a_run_lets_out_what_waited_behind_its_tasks() {
    let (store, _) = fresh_store().await;
    let (one, two) = (keyed("one", 3, "shared", 1), keyed("two", 1, "shared", 1));
    publish(&store, &one).await;
    publish(&store, &two).await;
    let first = trigger(&store, &one).await;
    let second = trigger(&store, &two).await;
    let worker = register(&store, "w").await;
    assert_eq!(claim_all(&store, worker, 16).await.len(), 1);
    store.cancel_run(first, "a test").await.unwrap();
    let next = claim_all(&store, worker, 16).await;
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].execution.run_id, second);
    assert_eq!(number(&store, "select count(*) from parked").await, 0);
    assert_eq!(states(&store, first).await["t0"], TaskState::Cancelled);
}

#[tokio::test]
async fn a_gate_and_a_pool_with_a_limit_both_hold() {
    let (store, _) = fresh_store().await;
    let mut both = keyed("both", 6, "three", 3);
    for task in &mut both.tasks {
        task.pool = "narrow".to_owned();
    }
    publish(&store, &both).await;
    limit_pool(&store, "narrow", 2).await;
    trigger(&store, &both).await;
    let worker = register(&store, "w").await;
    let mut held = claim_all(&store, worker, 16).await;
    let mut done = 0;
    while !held.is_empty() {
        assert_eq!(held.len(), 2.min(6 - done));
        store
            .settle(&[ended(held.remove(0), success())])
            .await
            .unwrap();
        done += 1;
        held.extend(claim_all(&store, worker, 16).await);
        check_invariants(&store).await;
    }
    assert_eq!(done, 6);
}

#[tokio::test]
async fn a_lost_worker_leaves_its_gates() {
    let (store, _) = fresh_store().await;
    let pair = keyed("pair", 2, "one at a time", 1);
    publish(&store, &pair).await;
    trigger(&store, &pair).await;
    let lost = register(&store, "lost").await;
    let held = claim_all(&store, lost, 16).await;
    assert_eq!(held.len(), 1);
    crate::store::tests::expire_workers(&store).await;
    store.reap().await.unwrap();
    let alive = register(&store, "alive").await;
    assert_eq!(claim_all(&store, alive, 16).await.len(), 1);
    let refused = store
        .settle(
            &held
                .into_iter()
                .map(|one| ended(one, success()))
                .collect::<Vec<_>>(),
        )
        .await
        .unwrap()
        .refused;
    assert_eq!(refused.len(), 1);
    assert_eq!(number(&store, "select count(*) from gate_use").await, 1);
}
