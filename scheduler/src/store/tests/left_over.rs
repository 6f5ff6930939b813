//! What a transaction leaves to others: they hear of it, and it is nothing that is somebody's already.

use pinwheel_tasks::Failure;

use super::{
    calls::settle_and_claim, check_invariants, claim, ended, expire, limit_pool, register, sleep,
    success,
};
use crate::{
    model::{RunState, TriggerRule},
    store::Ending,
    testing::{dag, fresh_store, publish, run_state, trigger},
};

#[tokio::test]
async fn a_late_result_is_refused_also_beside_the_new_one_of_the_same_task() {
    let (store, _) = fresh_store().await;
    let mut single = dag("single", &[("a", &[])]);
    single.tasks[0].retries = 3;
    publish(&store, &single).await;
    let late_endings = [
        Ending::GivenBack,
        sleep(1),
        Ending::Failed(Failure::retryable("too late")),
    ];
    for ending in late_endings {
        let run = trigger(&store, &single).await;
        let first = register(&store, "first").await;
        let late = claim(&store, first, 1).await.pop().unwrap();
        expire(&store, first).await;
        store.reap().await.unwrap();
        // The same process has a new lease, and the task again, before its first execution has stopped.
        let second = register(&store, "second").await;
        let new = claim(&store, second, 1).await.pop().unwrap();
        let instance = new.execution.instance_id;
        let batch = [ended(late, ending.clone()), ended(new, success())];
        let settled = store.settle(&batch).await.unwrap();
        assert_eq!(
            run_state(&store, run).await,
            RunState::Success,
            "{ending:?}"
        );
        check_invariants(&store).await;
        assert_eq!(settled.refused, [instance], "{ending:?}");
    }
}

#[tokio::test]
async fn others_hear_of_what_a_worker_made_claimable_in_a_queue_that_it_does_not_serve() {
    let (store, _) = fresh_store().await;
    let mut pair = dag("pair", &[("a", &[]), ("b", &["a"])]);
    pair.tasks[1].queue = "other".to_owned();
    pair.tasks[1].trigger_rule = TriggerRule::AllDone;
    publish(&store, &pair).await;
    trigger(&store, &pair).await;
    trigger(&store, &pair).await;
    let worker = register(&store, "one").await;
    let first = claim(&store, worker, 1).await.pop().unwrap();
    let failed = [ended(first, Ending::Failed(Failure::permanent("no")))];
    let (settled, claimed) = settle_and_claim(&store, &failed, worker, &["default"], 1)
        .await
        .unwrap();
    assert_eq!(claimed[0].task().id.as_str(), "a");
    assert!(
        settled.effects.work,
        "whoever serves the other queue is told of b"
    );
}

#[tokio::test]
async fn a_full_pool_takes_no_slots_from_a_pool_that_has_work() {
    let (store, _) = fresh_store().await;
    let names: Vec<String> = (0..12).map(|number| format!("t{number}")).collect();
    let tasks: Vec<(&str, &[&str])> = names
        .iter()
        .map(|name| (name.as_str(), &[] as &[&str]))
        .collect();
    let mut wide = dag("wide", &tasks);
    for task in &mut wide.tasks[..2] {
        task.pool = "narrow".to_owned();
        task.priority = 1;
    }
    publish(&store, &wide).await;
    limit_pool(&store, "narrow", 1).await;
    trigger(&store, &wide).await;
    let worker = register(&store, "one").await;
    // Both pools have work; now one of them is full and still has.
    let mut free = 10;
    loop {
        let claimed = claim(&store, worker, 1).await.pop().unwrap();
        match claimed.task().pool.as_str() {
            "narrow" => break,
            _default => free -= 1,
        }
    }
    for left in (1..=free).rev() {
        assert_eq!(claim(&store, worker, 1).await.len(), 1, "{left} are left");
    }
}
