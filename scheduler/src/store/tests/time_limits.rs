//! What takes longer than it may.

use std::time::Duration;

use chrono::TimeDelta;
use pinwheel_tasks::{Failure, FailureClass};

use super::{check_invariants, claim, ended, number, register, run_all, sleep, success};
use crate::{
    model::{RunState, TaskState, TryOutcome, retry::RetryOn},
    store::{Effects, Ending},
    testing::{dag, fresh_store, publish, run_state, states, trigger},
};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_run_that_takes_too_long_fails_and_what_is_unfinished_is_skipped() {
    let (store, _) = fresh_store().await;
    let mut slow = dag(
        "slow",
        &[
            ("a", &[]),
            ("b", &["a"]),
            ("c", &["b"]),
            ("d", &[]),
            ("e", &[]),
        ],
    );
    slow.timeout = Some(HOUR);
    slow.max_active_runs = 1;
    slow.tasks[4].priority = -1;
    publish(&store, &slow).await;
    let run = trigger(&store, &slow).await;
    let next = trigger(&store, &slow).await;
    let due = store
        .next_deadline(TimeDelta::zero())
        .await
        .unwrap()
        .work
        .unwrap();
    assert!(due <= HOUR && due > HOUR - Duration::from_secs(60));

    let worker = register(&store, "one").await;
    let mut held = claim(&store, worker, 2).await;
    let d = held.pop().unwrap();
    store.settle(&[ended(d, sleep(60))]).await.unwrap();
    let a = held.pop().unwrap();
    store.settle(&[ended(a, success())]).await.unwrap();
    let held = claim(&store, worker, 1).await.pop().unwrap();
    assert_eq!(
        store.time_out(TimeDelta::minutes(59)).await.unwrap(),
        Effects::default(),
        "its time is not over"
    );
    let effects = store.time_out(TimeDelta::minutes(61)).await.unwrap();
    assert!(effects.cancelled, "workers hear of what was taken away");
    check_invariants(&store).await;

    let row = store.run(run).await.unwrap().unwrap();
    assert_eq!(row.state, RunState::Failed);
    assert_eq!(
        row.reason.as_deref(),
        Some("it took longer than its timeout of 1h")
    );
    let states = states(&store, run).await;
    assert_eq!(states["a"], TaskState::Success);
    for id in ["b", "c", "d", "e"] {
        assert_eq!(states[id], TaskState::Skipped, "{id}");
    }
    let tries = store.tries(held.execution.instance_id).await.unwrap();
    assert_eq!(tries.last().unwrap().outcome, Some(TryOutcome::Cancelled));
    let instance = held.execution.instance_id;
    let late = store.settle(&[ended(held, success())]).await.unwrap();
    assert_eq!(late.refused, [instance]);
    assert_eq!(run_state(&store, next).await, RunState::Running);
    let due = store
        .next_deadline(TimeDelta::zero())
        .await
        .unwrap()
        .work
        .unwrap();
    assert!(
        due > HOUR - Duration::from_secs(60),
        "the next run has its own time"
    );

    // A clear gives it its time anew.
    store
        .clear(crate::store::ClearRequest {
            run_id: run,
            selection: crate::store::ClearSelection::WholeRun,
            scope: crate::store::ClearScope::Only,
            version: crate::store::ClearVersion::Same,
            actor: "ada".to_owned(),
        })
        .await
        .unwrap();
    assert_eq!(
        store.time_out(TimeDelta::minutes(59)).await.unwrap(),
        Effects::default()
    );
    run_all(&store, worker, |_| success()).await;
    assert_eq!(run_state(&store, run).await, RunState::Success);
    assert_eq!(store.run(run).await.unwrap().unwrap().reason, None);
    store.time_out(TimeDelta::minutes(61)).await.unwrap();
    assert_eq!(
        run_state(&store, run).await,
        RunState::Success,
        "a run that is over cannot take too long"
    );
    assert_eq!(number(&store, "select count(*) from run_limit").await, 0);
    assert_eq!(
        store.next_deadline(TimeDelta::zero()).await.unwrap().work,
        None
    );
}

#[tokio::test]
async fn a_task_that_is_queued_for_too_long_fails_and_its_run_follows() {
    let (store, _) = fresh_store().await;
    let mut impatient = dag("impatient", &[("a", &[]), ("b", &["a"]), ("c", &["b"])]);
    impatient.tasks[0].queue_timeout = Some(HOUR);
    impatient.tasks[1].queue_timeout = Some(2 * HOUR);
    publish(&store, &impatient).await;
    let worker = register(&store, "one").await;

    let run = trigger(&store, &impatient).await;
    assert_eq!(
        store.time_out(TimeDelta::minutes(59)).await.unwrap(),
        Effects::default()
    );
    assert!(store.time_out(TimeDelta::minutes(61)).await.unwrap().work);
    check_invariants(&store).await;
    assert_eq!(run_state(&store, run).await, RunState::Failed);
    let rows = store.instances(run).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| row.state).collect::<Vec<_>>(),
        [
            TaskState::Failed,
            TaskState::UpstreamFailed,
            TaskState::UpstreamFailed
        ]
    );
    assert_eq!(
        rows[0].reason.as_deref(),
        Some(
            "it was queued for longer than its queue_timeout of 1h, in queue `default` and pool `default`"
        )
    );
    assert_eq!(rows[0].tries, 0, "it never ran");

    // One that was claimed in time has no limit any more, and the next has its own.
    let run = trigger(&store, &impatient).await;
    let a = claim(&store, worker, 1).await.pop().unwrap();
    assert_eq!(
        store.next_deadline(TimeDelta::zero()).await.unwrap().work,
        None
    );
    store.time_out(TimeDelta::minutes(61)).await.unwrap();
    assert_eq!(states(&store, run).await["a"], TaskState::Running);
    let settled = store.settle(&[ended(a, success())]).await.unwrap();
    assert!(
        settled.effects.deadline,
        "a scheduler hears of the new limit"
    );
    let due = store
        .next_deadline(TimeDelta::zero())
        .await
        .unwrap()
        .work
        .unwrap();
    assert!(due > HOUR && due <= 2 * HOUR);
    assert_eq!(run_all(&store, worker, |_| success()).await, ["b", "c"]);
    assert_eq!(run_state(&store, run).await, RunState::Success);
}

#[tokio::test]
async fn the_time_in_the_queue_begins_anew_with_every_turn() {
    let (store, _) = fresh_store().await;
    let mut napping = dag("napping", &[("a", &[])]);
    napping.tasks[0].queue_timeout = Some(HOUR);
    publish(&store, &napping).await;
    let run = trigger(&store, &napping).await;
    let worker = register(&store, "one").await;
    let held = claim(&store, worker, 1).await.pop().unwrap();
    store
        .settle(&[ended(held, Ending::GivenBack)])
        .await
        .unwrap();
    let due = async || store.next_deadline(TimeDelta::zero()).await.unwrap().work;
    assert!(due().await.unwrap() > HOUR - Duration::from_secs(60));
    let held = claim(&store, worker, 1).await.pop().unwrap();
    store.settle(&[ended(held, sleep(60))]).await.unwrap();
    assert!(due().await.unwrap() <= Duration::from_secs(60));
    store.wake(TimeDelta::minutes(2)).await.unwrap();
    assert!(due().await.unwrap() > HOUR - Duration::from_secs(60));
    store.time_out(TimeDelta::minutes(61)).await.unwrap();
    assert_eq!(run_state(&store, run).await, RunState::Failed);
    assert_eq!(number(&store, "select count(*) from resume").await, 0);
    check_invariants(&store).await;
}

#[tokio::test]
async fn two_schedulers_end_what_takes_too_long_once() {
    let (store, _) = fresh_store().await;
    let mut slow = dag("slow", &[("a", &[]), ("b", &[])]);
    slow.timeout = Some(HOUR);
    slow.tasks[0].queue_timeout = Some(HOUR);
    publish(&store, &slow).await;
    let mut runs = Vec::new();
    for _ in 0..10 {
        runs.push(trigger(&store, &slow).await);
    }
    let later = TimeDelta::hours(2);
    let (one, other) = tokio::join!(store.time_out(later), store.time_out(later));
    assert!(one.unwrap().work || other.unwrap().work);
    for run in runs {
        assert_eq!(run_state(&store, run).await, RunState::Failed);
    }
    check_invariants(&store).await;
}

#[tokio::test]
async fn the_pause_before_a_try_is_what_the_model_says() {
    let (store, _) = fresh_store().await;
    let mut retried = dag("retried", &[("a", &[])]);
    retried.tasks[0].retries = 5;
    retried.tasks[0].retry_delay = Duration::from_secs(100);
    retried.tasks[0].retry.factor = 3.0;
    retried.tasks[0].retry.max_delay = Some(Duration::from_secs(800));
    retried.tasks[0].retry.on = vec![RetryOn::Exit {
        first: 75,
        last: 75,
    }];
    publish(&store, &retried).await;
    let run = trigger(&store, &retried).await;
    let worker = register(&store, "one").await;
    let failed = |code| {
        Ending::Failed(Failure {
            class: FailureClass::Retryable,
            message: format!("exit code {code}"),
            hint: None,
            exit_code: Some(code),
        })
    };
    for expected in [100, 300, 800, 800] {
        let held = claim(&store, worker, 1).await.pop().unwrap();
        store.settle(&[ended(held, failed(75))]).await.unwrap();
        let due = store
            .next_deadline(TimeDelta::zero())
            .await
            .unwrap()
            .work
            .unwrap();
        let expected = Duration::from_secs(expected);
        assert!(
            due <= expected && due > expected - Duration::from_secs(50),
            "{due:?} of {expected:?}"
        );
        store.wake(TimeDelta::hours(1)).await.unwrap();
    }
    let held = claim(&store, worker, 1).await.pop().unwrap();
    store.settle(&[ended(held, failed(1))]).await.unwrap();
    assert_eq!(run_state(&store, run).await, RunState::Failed);
}
