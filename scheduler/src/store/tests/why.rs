//! Why a task instance is where it is: every answer, produced.

use chrono::TimeDelta;
use pinwheel_tasks::{Failure, FailureClass};

use super::{calls, claim, ended, expire, limit_pool, register, run_all, sleep, sql, success};
use crate::{
    model::{Concurrency, Dag, RunId, TaskId, TaskState, TriggerRule},
    store::{
        Because, ClearRequest, ClearScope, ClearSelection, ClearVersion, Ending, Error,
        MarkRequest, MarkSelection, MarkedAs, Paused, Store, Why,
    },
    testing::{dag, fresh_store, publish, trigger},
};

async fn ask(store: &Store, run: RunId, task: &str) -> Why {
    store
        .why(run, &TaskId::new(task).unwrap(), -1)
        .await
        .unwrap()
}

async fn sentence(store: &Store, run: RunId, task: &str) -> String {
    ask(store, run, task).await.sentence
}

async fn start(store: &Store, dag: &Dag) -> RunId {
    publish(store, dag).await;
    trigger(store, dag).await
}

fn failed(message: &str) -> Ending {
    Ending::Failed(Failure::retryable(message))
}

#[tokio::test]
async fn a_task_of_a_queued_run_says_what_the_run_waits_for() {
    let (store, _) = fresh_store().await;
    let mut alone = dag("alone", &[("a", &[])]);
    alone.max_active_runs = 1;
    let first = start(&store, &alone).await;
    let second = trigger(&store, &alone).await;
    let third = trigger(&store, &alone).await;
    assert_eq!(
        sentence(&store, second, "a").await,
        format!(
            "its run has not started: its DAG `alone` has max_active_runs = 1 and run {first} is running"
        )
    );
    assert_eq!(
        sentence(&store, third, "a").await,
        format!(
            "its run has not started: its DAG `alone` has max_active_runs = 1 and run {first} is running, and 1 queued run starts before it"
        )
    );
    store
        .set_paused(&alone.id, Paused::Paused, "ada")
        .await
        .unwrap();
    store.cancel_run(first, "ada").await.unwrap();
    let why = ask(&store, second, "a").await;
    assert_eq!(
        why.sentence,
        "its run has not started: its DAG `alone` is paused"
    );
    assert_eq!(
        why.hint.as_deref(),
        Some("`pinwheel dags unpause alone` lets it go on")
    );
    assert_eq!(
        sentence(&store, first, "a").await,
        "its run was cancelled by ada"
    );
    // Nothing keeps it, but nobody is there to start it.
    sql(&store, "update dag set paused = false".to_owned()).await;
    assert_eq!(
        sentence(&store, second, "a").await,
        "no scheduler is alive; its run is about to start"
    );
}

#[tokio::test]
async fn a_waiting_task_names_what_it_waits_for() {
    let (store, _) = fresh_store().await;
    let fan = dag(
        "fan",
        &[("a", &[]), ("b", &[]), ("c", &[]), ("d", &["a", "b", "c"])],
    );
    let run = start(&store, &fan).await;
    let worker = register(&store, "one").await;
    let mut held = claim(&store, worker, 2).await;
    store
        .settle(&[ended(held.remove(0), success())])
        .await
        .unwrap();
    assert_eq!(
        sentence(&store, run, "d").await,
        "waiting for 2 of 3 upstream tasks: b (running), c (queued)"
    );
    let why = ask(&store, run, "b").await;
    assert!(
        why.sentence.starts_with("it runs on `one` since 20"),
        "{}",
        why.sentence
    );
    assert_eq!(sentence(&store, run, "a").await, "it succeeded");
}

#[tokio::test]
async fn a_queued_task_names_everything_that_is_in_its_way() {
    let (store, _) = fresh_store().await;
    let mut busy = dag("busy", &[("a", &[]), ("b", &[]), ("c", &[]), ("d", &[])]);
    for one in &mut busy.tasks[..3] {
        one.pool = "cpu".to_owned();
    }
    busy.tasks[2].slots = 3;
    busy.tasks[2].priority = -1;
    busy.tasks[3].queue = "gpu".to_owned();
    let run = start(&store, &busy).await;
    limit_pool(&store, "cpu", 4).await;
    let why = ask(&store, run, "a").await;
    assert_eq!(why.sentence, "no worker is alive");
    assert_eq!(why.hint.as_deref(), Some("start `pinwheel worker`"));

    let worker = register(&store, "one").await;
    assert_eq!(
        sentence(&store, run, "a").await,
        "nothing keeps it: it is about to run"
    );
    assert_eq!(
        sentence(&store, run, "b").await,
        "1 task of pool `cpu` and queue `default` comes first"
    );
    let why = ask(&store, run, "d").await;
    assert_eq!(
        why.sentence,
        "no worker serves queue `gpu` (1 worker serves others)"
    );
    assert_eq!(
        why.hint.as_deref(),
        Some("start a worker with `[worker] queues = [\"gpu\"]`")
    );
    assert_eq!(claim(&store, worker, 2).await.len(), 2);
    assert_eq!(
        sentence(&store, run, "c").await,
        "pool `cpu` has 2 of 4 slots free, and it takes 3"
    );
    limit_pool(&store, "cpu", 1).await;
    assert_eq!(
        sentence(&store, run, "c").await,
        "pool `cpu` has 0 of 1 slots free (1 more than it has are in use)"
    );
    limit_pool(&store, "cpu", 4).await;
    sql(&store, "update worker set slots = 2".to_owned()).await;
    assert_eq!(
        sentence(&store, run, "c").await,
        "pool `cpu` has 2 of 4 slots free, and it takes 3; 2 of 2 slots of the 1 worker of queue `default` are busy"
    );
    expire(&store, worker).await;
    assert!(
        ask(&store, run, "d")
            .await
            .because
            .contains(&Because::NoWorker)
    );
}

#[tokio::test]
async fn a_full_pool_is_said_with_its_numbers() {
    let (store, _) = fresh_store().await;
    let names = ["a", "b", "c", "d", "e"];
    let tasks = names.map(|name| (name, &[] as &[&str]));
    let mut full = dag("full", &tasks);
    for one in &mut full.tasks {
        one.pool = "cpu".to_owned();
    }
    let run = start(&store, &full).await;
    limit_pool(&store, "cpu", 4).await;
    let worker = register(&store, "one").await;
    assert_eq!(claim(&store, worker, 8).await.len(), 4);
    assert_eq!(
        sentence(&store, run, "e").await,
        "pool `cpu` has 0 of 4 slots free"
    );
}

#[tokio::test]
async fn a_task_behind_a_gate_names_who_is_in_it() {
    let (store, _) = fresh_store().await;
    let mut narrow = dag("narrow", &[("a", &[]), ("b", &[])]);
    narrow.max_active_tasks = Some(1);
    let run = start(&store, &narrow).await;
    let worker = register(&store, "one").await;
    // The first claim only learns that there are gates.
    claim(&store, worker, 4).await;
    assert_eq!(claim(&store, worker, 4).await.len(), 1);
    assert_eq!(
        sentence(&store, run, "b").await,
        "its DAG has max_active_tasks = 1, and of its run a is running"
    );
    let mut keyed = dag("keyed", &[("x", &[])]);
    keyed.tasks[0].concurrency = Some(Concurrency {
        key: "customer-7".to_owned(),
        limit: 1,
    });
    let first = start(&store, &keyed).await;
    let second = trigger(&store, &keyed).await;
    // Nothing stood behind a gate in between, so there is one claim again that only learns of it.
    claim(&store, worker, 4).await;
    assert_eq!(claim(&store, worker, 4).await.len(), 1);
    assert_eq!(
        sentence(&store, second, "x").await,
        format!(
            "it is behind the concurrency key `customer-7` (limit 1), held by run {first} task x"
        )
    );
}

#[tokio::test]
async fn a_sleeping_task_says_until_when_and_why() {
    let (store, _) = fresh_store().await;
    let mut sleepy = dag("sleepy", &[("a", &[]), ("b", &[])]);
    sleepy.tasks[1].retries = 2;
    let run = start(&store, &sleepy).await;
    let worker = register(&store, "one").await;
    let mut held = claim(&store, worker, 2).await;
    let (b, a) = (held.pop().unwrap(), held.pop().unwrap());
    store
        .settle(&[ended(a, sleep(60)), ended(b, failed("no route"))])
        .await
        .unwrap();
    let a = sentence(&store, run, "a").await;
    assert!(a.starts_with("it sleeps (deferred) until 20"), "{a}");
    assert!(a.contains(" because "), "{a}");
    let b = sentence(&store, run, "b").await;
    assert!(b.starts_with("it sleeps (up for retry) until 20"), "{b}");
    assert!(
        b.ends_with(", then try 2 of 3 begins; the last one failed: no route"),
        "{b}"
    );
    sql(
        &store,
        "update sleeper set wake_at = now() - interval '1 minute'".to_owned(),
    )
    .await;
    let b = sentence(&store, run, "b").await;
    assert!(b.starts_with("no scheduler is alive; it sleeps"), "{b}");
    store.wake(TimeDelta::zero()).await.unwrap();
    assert_eq!(ask(&store, run, "b").await.state, TaskState::Queued);
}

#[tokio::test]
async fn what_is_over_says_how_it_came_to_that() {
    let (store, _) = fresh_store().await;
    let mut over = dag(
        "over",
        &[
            ("broken", &[]),
            ("empty", &[]),
            ("below", &["broken"]),
            ("beside", &["empty"]),
            ("handler", &["beside", "empty"]),
        ],
    );
    over.tasks[0].retries = 1;
    over.tasks[0].retry.not_on = vec!["exit:3".parse().unwrap()];
    over.tasks[4].trigger_rule = TriggerRule::OneFailed;
    let run = start(&store, &over).await;
    let worker = register(&store, "one").await;
    run_all(&store, worker, |task| match task {
        "broken" => Ending::Failed(Failure {
            class: FailureClass::Retryable,
            message: "exit code 3".to_owned(),
            hint: Some("look at its log".to_owned()),
            exit_code: Some(3),
        }),
        "empty" => Ending::Skipped {
            reason: "no rows".to_owned(),
        },
        _ => success(),
    })
    .await;
    let why = ask(&store, run, "broken").await;
    assert_eq!(
        why.sentence,
        "try 1 of 2 failed: exit code 3; it is not tried again: `no_retry_on` names `exit:3`"
    );
    assert_eq!(why.hint.as_deref(), Some("look at its log"));
    assert_eq!(
        sentence(&store, run, "empty").await,
        "it found nothing to do: no rows"
    );
    let below = sentence(&store, run, "below").await;
    assert!(
        below.starts_with("the trigger rule `all_success` was not met: "),
        "{below}"
    );
    assert!(below.ends_with(": broken (failed)"), "{below}");
    let beside = sentence(&store, run, "beside").await;
    assert!(beside.ends_with(": empty (skipped)"), "{beside}");
    let handler = sentence(&store, run, "handler").await;
    assert!(
        handler.starts_with("the trigger rule `one_failed` was not met: "),
        "{handler}"
    );

    store
        .mark(MarkRequest {
            run_id: run,
            selection: MarkSelection::Tasks(vec![TaskId::new("below").unwrap()]),
            marked: MarkedAs::Failed,
            actor: "ada".to_owned(),
        })
        .await
        .unwrap();
    assert_eq!(sentence(&store, run, "below").await, "marked failed by ada");
}

#[tokio::test]
async fn a_failure_without_tries_left_says_so() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    let run = start(&store, &single).await;
    let worker = register(&store, "one").await;
    run_all(&store, worker, |_| failed("exit code 1")).await;
    assert_eq!(
        sentence(&store, run, "a").await,
        "try 1 of 1 failed: exit code 1; it is not tried again: no tries are left: 1 of 1 were used"
    );
}

#[tokio::test]
async fn what_took_too_long_says_which_limit_it_was() {
    let (store, _) = fresh_store().await;
    let hour = std::time::Duration::from_secs(3600);
    let mut slow = dag("slow", &[("a", &[])]);
    slow.timeout = Some(hour);
    let run = start(&store, &slow).await;
    store.time_out(TimeDelta::hours(2)).await.unwrap();
    assert_eq!(
        sentence(&store, run, "a").await,
        "the run took longer than its timeout of 1h"
    );
    let mut queued = dag("queued", &[("a", &[])]);
    queued.tasks[0].queue_timeout = Some(hour);
    let run = start(&store, &queued).await;
    store.time_out(TimeDelta::hours(2)).await.unwrap();
    assert_eq!(
        sentence(&store, run, "a").await,
        "it was queued for longer than its queue_timeout of 1h, in queue `default` and pool `default`"
    );
}

#[tokio::test]
async fn a_task_that_is_gone_from_its_version_says_so() {
    let (store, _) = fresh_store().await;
    let run = start(&store, &dag("moving", &[("a", &[]), ("b", &[])])).await;
    let worker = register(&store, "one").await;
    run_all(&store, worker, |_| success()).await;
    publish(&store, &dag("moving", &[("a", &[])])).await;
    store
        .clear(ClearRequest {
            run_id: run,
            selection: ClearSelection::WholeRun,
            scope: ClearScope::Only,
            version: ClearVersion::Latest,
            actor: "ada".to_owned(),
        })
        .await
        .unwrap();
    assert_eq!(ask(&store, run, "b").await.because, [Because::IsRemoved]);
}

#[tokio::test]
async fn the_first_task_that_is_stuck_is_found() {
    let (store, _) = fresh_store().await;
    let mut chain = dag("chain", &[("a", &[]), ("b", &["a"]), ("c", &[])]);
    chain.tasks[2].queue = "gpu".to_owned();
    let run = start(&store, &chain).await;
    let worker = register(&store, "one").await;
    let held = claim(&store, worker, 4).await;
    assert_eq!(held.len(), 1);
    let stuck = store.why_stuck(run).await.unwrap().unwrap();
    assert_eq!(stuck.task_id.as_str(), "c");
    let gpu = calls::register(&store, &["gpu"]).await;
    assert_eq!(
        calls::claim(&store, gpu, &["gpu"], 1).await.unwrap().len(),
        1
    );
    assert_eq!(
        store.why_stuck(run).await.unwrap(),
        None,
        "what waits for running tasks is not stuck"
    );
}

#[tokio::test]
async fn what_is_not_there_is_an_error_with_a_name() {
    let (store, _) = fresh_store().await;
    let run = start(&store, &dag("single", &[("load", &[])])).await;
    let ask = async |run, task: &str, item| store.why(run, &TaskId::new(task).unwrap(), item).await;
    assert!(matches!(
        ask(RunId(99), "load", -1).await,
        Err(Error::UnknownRun { .. })
    ));
    assert!(matches!(
        ask(run, "loda", -1).await,
        Err(Error::UnknownTask { nearest: Some(nearest), .. }) if nearest == "load"
    ));
    assert!(matches!(
        ask(run, "load", 3).await,
        Err(Error::UnknownInstance { .. })
    ));
}
