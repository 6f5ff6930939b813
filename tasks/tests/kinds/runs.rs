//! `trigger_dag` and `wait_for_run`.

use std::time::Duration;

use pinwheel_tasks::{
    FailureClass, Kind, Orchestrator, RunState, TriggerDag, WaitForRun, WantedRun,
};
use serde_json::json;

use crate::world::{World, date, output, sleep, table};

async fn somebody_runs(world: &World, dag: &str, logical_date: &str) -> i64 {
    let wanted = WantedRun {
        dag_id: dag.to_owned(),
        logical_date: date(logical_date),
        params: Default::default(),
        asker: "somebody".to_owned(),
    };
    world.trigger(&wanted).await.unwrap().run_id
}

#[tokio::test]
async fn however_often_a_task_tries_it_makes_one_run() {
    let world = World::new();
    let with = json!({"dag": "child", "params": {"day": "2026-01-01"}});
    let first = output(world.run(&TriggerDag, with.clone()).await);
    assert_eq!(
        first,
        json!({"run_id": 1, "logical_date": "2026-01-02T02:00:00Z", "state": "queued"})
    );
    // The next try is later, and what the first one learned is lost.
    world.advance(Duration::from_secs(3600));
    assert_eq!(output(world.run(&TriggerDag, with).await), first);
    let runs = world.runs.lock().unwrap();
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].0.params, table(json!({"day": "2026-01-01"})));
    assert_eq!(runs[0].0.asker, "task load of pins run 7 (70)");
}

#[tokio::test]
async fn a_run_of_somebody_else_is_not_taken_for_its_own() {
    let world = World::new();
    let taken = somebody_runs(&world, "child", "2026-01-02T02:00:00Z").await;
    let with = json!({"dag": "child", "logical_date": "2026-01-02T02:00:00Z"});
    let failure = world.run(&TriggerDag, with).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(failure.message.ends_with(&taken.to_string()));

    // "Now" makes way, and finds its way again.
    let world = World::new();
    somebody_runs(&world, "child", "2026-01-02T02:00:00Z").await;
    for _ in 0..2 {
        let mine = output(world.run(&TriggerDag, json!({"dag": "child"})).await);
        assert_eq!(mine["logical_date"], "2026-01-02T02:00:00.000001Z");
        world.advance(Duration::from_secs(1));
    }
    assert_eq!(world.runs.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_task_that_waits_sleeps_until_its_run_has_ended() {
    for (state, allow_failure, is_success) in [
        (RunState::Success, false, true),
        (RunState::Failed, false, false),
        (RunState::Cancelled, false, false),
        (RunState::Failed, true, true),
    ] {
        let world = World::new();
        let with = json!({"dag": "child", "wait": true, "allow_failure": allow_failure});
        let (wake_after, reason, resume) = sleep(world.run(&TriggerDag, with.clone()).await);
        assert_eq!(wake_after, Duration::from_secs(10));
        assert_eq!(reason, "waits for run 1 of `child`, which is queued");
        world.set_state(1, RunState::Running);
        let (_, _, resume) = sleep(world.resume(&TriggerDag, with.clone(), Some(resume)).await);
        world.set_state(1, state);
        let outcome = world.resume(&TriggerDag, with, Some(resume)).await;
        if is_success {
            assert_eq!(output(outcome)["state"], state.word());
        } else {
            assert_eq!(outcome.unwrap_err().class, FailureClass::Permanent);
        }
    }
}

#[tokio::test]
async fn the_run_of_the_same_date_of_an_earlier_one_or_the_last_one_is_waited_for() {
    let world = World::new();
    let with = json!({"dag": "other"});
    let (wake_after, reason, _) = sleep(world.run(&WaitForRun, with.clone()).await);
    assert_eq!(wake_after, Duration::from_secs(60));
    assert_eq!(
        reason,
        "the run of `other` for 2026-01-01T02:00:00Z does not exist yet (after 1 look)"
    );
    let earlier = somebody_runs(&world, "other", "2025-12-31T02:00:00Z").await;
    let same = somebody_runs(&world, "other", "2026-01-01T02:00:00Z").await;
    let last = somebody_runs(&world, "other", "2026-01-01T03:00:00Z").await;
    for (more, run_id) in [
        (json!({}), same),
        (json!({"earlier": "1d"}), earlier),
        (json!({"logical_date": "2026-01-01T04:00:00+01:00"}), last),
        (json!({"last": true}), last),
    ] {
        let mut with = table(with.clone());
        with.extend(table(more));
        let with = serde_json::Value::Object(with);
        world.set_state(run_id, RunState::Running);
        let (_, reason, resume) = sleep(world.run(&WaitForRun, with.clone()).await);
        assert!(
            reason.contains(&format!("(run {run_id}) is running")),
            "{reason}"
        );
        world.set_state(run_id, RunState::Success);
        let seen = output(world.resume(&WaitForRun, with, Some(resume)).await);
        assert_eq!(
            (&seen["run_id"], &seen["state"]),
            (&json!(run_id), &json!("success"))
        );
    }
}

#[tokio::test]
async fn a_run_that_failed_is_waited_for_unless_the_task_says_otherwise() {
    let world = World::new();
    let run_id = somebody_runs(&world, "other", "2026-01-01T02:00:00Z").await;
    world.set_state(run_id, RunState::Failed);
    sleep(world.run(&WaitForRun, json!({"dag": "other"})).await);
    let with = json!({"dag": "other", "fail_states": ["failed", "cancelled"]});
    let failure = world.run(&WaitForRun, with).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
    let with = json!({"dag": "other", "states": ["success", "failed"]});
    assert_eq!(
        output(world.run(&WaitForRun, with).await)["state"],
        "failed"
    );
    let failure = world
        .run(&WaitForRun, json!({"dag": "nowhere"}))
        .await
        .unwrap_err();
    assert_eq!(failure.message, "unknown DAG `nowhere`");
    let with = json!({"dag": "other", "states": ["done"]});
    assert_eq!(WaitForRun.check(&table(with)).len(), 1);
}
