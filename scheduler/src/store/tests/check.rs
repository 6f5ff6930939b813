//! Everything a check can find: broken by SQL, found, mended, and gone at the second look.

use super::*;
use crate::model::{Concurrency, InstanceId, Schedule, TriggerRule};

/// Changes rows behind the back of triggers and foreign keys, as a bug or a person with psql would.
async fn break_it(store: &Store, statements: &str) {
    sql(
        store,
        format!("begin; set local session_replication_role = replica; {statements}; commit;"),
    )
    .await;
}

fn kinds(checked: &Checked) -> Vec<FindingKind> {
    let mut kinds: Vec<FindingKind> = checked
        .findings
        .iter()
        .map(|finding| finding.kind)
        .collect();
    kinds.sort_unstable();
    kinds
}

async fn found(store: &Store) -> Vec<FindingKind> {
    kinds(&store.check().await.unwrap())
}

/// Breaks something, and expects that it is found, that looking changes nothing, and that a repair mends it for good.
async fn mends(store: &Store, statements: &str, expected: &[FindingKind]) -> Repaired {
    assert_eq!(found(store).await, [], "nothing is wrong before");
    break_it(store, statements).await;
    let first = store.check().await.unwrap();
    assert_eq!(kinds(&first), expected, "{:#?}", first.findings);
    assert_eq!(
        store.check().await.unwrap().findings,
        first.findings,
        "a look changes nothing"
    );
    let repaired = store.repair("ada").await.unwrap();
    assert_eq!(repaired.found.findings, first.findings);
    assert_eq!(repaired.left.findings, [], "nothing is left");
    assert!(repaired.changed > 0);
    check_invariants(store).await;
    let again = store.repair("ada").await.unwrap();
    assert_eq!(again.changed, 0, "a second repair finds nothing to do");
    repaired
}

fn only(repaired: &Repaired) -> &Finding {
    assert_eq!(repaired.found.findings.len(), 1);
    &repaired.found.findings[0]
}

/// A run of these tasks, and a worker.
async fn scene(tasks: &[(&str, &[&str])]) -> (Store, Dag, RunId, WorkerId) {
    let (store, _) = fresh_store().await;
    let dag = dag("daily", tasks);
    publish(&store, &dag).await;
    let run = trigger(&store, &dag).await;
    let worker = register(&store, "one").await;
    (store, dag, run, worker)
}

async fn succeed(store: &Store, worker: WorkerId) -> Vec<String> {
    run_all(store, worker, |_| success()).await
}

/// Settles one task and leaves what follows queued.
async fn succeed_one(store: &Store, worker: WorkerId) {
    let claimed = claim(store, worker, 1).await.pop().unwrap();
    store.settle(&[ended(claimed, success())]).await.unwrap();
}

#[tokio::test]
async fn whatever_state_a_run_is_in_nothing_is_wrong_with_it() {
    let (store, _) = fresh_store().await;
    let mut chain = dag("chain", &[("a", &[]), ("b", &["a"]), ("c", &[])]);
    chain.max_active_runs = 3;
    chain.tasks[2].retries = 1;
    publish(&store, &chain).await;
    let worker = register(&store, "one").await;
    for _ in 0..5 {
        trigger(&store, &chain).await;
    }
    succeed_one(&store, worker).await;
    let sleeps = claim(&store, worker, 1).await.pop().unwrap();
    store.settle(&[ended(sleeps, sleep(0))]).await.unwrap();
    let fails = claim(&store, worker, 1).await.pop().unwrap();
    let failure = Ending::Failed(Failure::retryable("not yet"));
    store.settle(&[ended(fails, failure)]).await.unwrap();
    let running = claim(&store, worker, 1).await;
    assert_eq!(running.len(), 1);
    store.cancel_run(RunId(3), "ada").await.unwrap();
    let checked = store.check().await.unwrap();
    assert_eq!(checked.findings, []);
    assert_eq!(
        (checked.open_runs, checked.task_instances, checked.asleep),
        (4, 12, 2)
    );
    assert!(checked.ready > 0);
    check_invariants(&store).await;
}

#[tokio::test]
async fn counters_that_differ_are_recounted_and_the_trigger_rule_is_decided_then() {
    let (store, _, run, worker) = scene(&[("a", &[]), ("b", &["a"]), ("c", &["b"])]).await;
    succeed_one(&store, worker).await;
    let repaired = mends(
        &store,
        "update task_instance set state = 'waiting', queued_at = null, pending = 1, ok = 0 where ordinal = 1; \
         delete from ready",
        &[FindingKind::Counters, FindingKind::NeverPromoted],
    )
    .await;
    let [counters, promotion] = repaired.found.findings.as_slice() else {
        panic!("there are two findings");
    };
    assert_eq!(counters.task_id.as_ref().unwrap().as_str(), "b");
    assert_eq!(counters.run_id, Some(run));
    assert_eq!(
        (counters.stored.as_str(), counters.expected.as_str()),
        (
            "1 pending, 0 ok, 0 failed, 0 upstream failed, 0 skipped",
            "0 pending, 1 ok, 0 failed, 0 upstream failed, 0 skipped"
        )
    );
    assert_eq!(
        (promotion.stored.as_str(), promotion.expected.as_str()),
        ("waiting", "queued: its upstream task succeeded")
    );
    assert_eq!(succeed(&store, worker).await, ["b", "c"]);
    assert_eq!(run_state(&store, run).await, RunState::Success);
}

#[tokio::test]
async fn a_verdict_that_was_never_given_is_given_with_all_that_follows_from_it() {
    let (store, _) = fresh_store().await;
    let mut dag = dag("daily", &[("a", &[]), ("b", &["a"]), ("c", &["b"])]);
    dag.tasks[1].trigger_rule = TriggerRule::AllFailed;
    dag.tasks[2].trigger_rule = TriggerRule::AllDone;
    publish(&store, &dag).await;
    let run = trigger(&store, &dag).await;
    let worker = register(&store, "one").await;
    succeed_one(&store, worker).await;
    let repaired = mends(
        &store,
        "update task_instance set state = 'waiting', finished_at = null where ordinal = 1; \
         update task_instance set state = 'waiting', queued_at = null, pending = 1, skipped = 0 where ordinal = 2; \
         update run set unfinished = 2; delete from ready",
        &[FindingKind::NeverPromoted],
    )
    .await;
    assert_eq!(
        only(&repaired).expected,
        "skipped: 1 of 1 upstream task succeeded"
    );
    assert_eq!(states(&store, run).await["b"], TaskState::Skipped);
    assert_eq!(succeed(&store, worker).await, ["c"]);
    assert_eq!(run_state(&store, run).await, RunState::Success);
}

#[tokio::test]
async fn the_counts_of_a_run_are_recounted() {
    let (store, _, run, worker) = scene(&[("a", &[]), ("b", &["a"])]).await;
    succeed_one(&store, worker).await;
    let repaired = mends(
        &store,
        "update run set unfinished = 7, failures = 1",
        &[FindingKind::RunCounts],
    )
    .await;
    assert_eq!(
        (
            only(&repaired).stored.as_str(),
            only(&repaired).expected.as_str()
        ),
        ("7 unfinished, 1 failures", "1 unfinished, 0 failures")
    );
    succeed(&store, worker).await;
    assert_eq!(run_state(&store, run).await, RunState::Success);
}

#[tokio::test]
async fn a_run_that_nothing_would_close_is_closed_and_the_next_one_starts() {
    let (store, _) = fresh_store().await;
    let mut single = dag("single", &[("a", &[])]);
    single.max_active_runs = 1;
    publish(&store, &single).await;
    let worker = register(&store, "one").await;
    let run = trigger(&store, &single).await;
    let failed = run_all(&store, worker, |_| {
        Ending::Failed(Failure::permanent("broken"))
    })
    .await;
    assert_eq!(failed, ["a"]);
    break_it(
        &store,
        "update run set state = 'running', finished_at = null",
    )
    .await;
    let next = trigger(&store, &single).await;
    assert_eq!(run_state(&store, next).await, RunState::Queued);
    assert_eq!(found(&store).await, [FindingKind::RunNotClosed]);
    break_it(
        &store,
        &format!("update run set unfinished = 3, failures = 0 where run_id = {run}"),
    )
    .await;
    assert_eq!(
        found(&store).await,
        [FindingKind::RunCounts, FindingKind::RunNotClosed]
    );
    let repaired = store.repair("ada").await.unwrap();
    assert_eq!(repaired.left.findings, []);
    assert_eq!(run_state(&store, run).await, RunState::Failed);
    assert_eq!(run_state(&store, next).await, RunState::Running);
    assert_eq!(succeed(&store, worker).await, ["a"]);
}

#[tokio::test]
async fn a_queued_run_that_has_room_is_started_unless_its_dag_is_paused() {
    let (store, _) = fresh_store().await;
    let mut single = dag("single", &[("a", &[])]);
    single.max_active_runs = 1;
    publish(&store, &single).await;
    for _ in 0..4 {
        trigger(&store, &single).await;
    }
    break_it(&store, "update dag set max_active_runs = 3, paused = true").await;
    assert_eq!(found(&store).await, []);
    break_it(&store, "update dag set max_active_runs = 1, paused = false").await;
    let repaired = mends(
        &store,
        "update dag set max_active_runs = 3",
        &[FindingKind::RunNotStarted, FindingKind::RunNotStarted],
    )
    .await;
    assert_eq!(repaired.found.findings[0].run_id, Some(RunId(2)));
    assert_eq!(
        repaired.found.findings[0].expected,
        "running: 1 of 3 runs are"
    );
    assert_eq!(run_state(&store, RunId(3)).await, RunState::Running);
    assert_eq!(run_state(&store, RunId(4)).await, RunState::Queued);
}

#[tokio::test]
async fn what_may_be_claimed_and_what_wakes_can_be_rebuilt() {
    let (store, _) = fresh_store().await;
    let mut pair = dag("pair", &[("a", &[]), ("b", &[])]);
    pair.tasks[0].retries = 1;
    publish(&store, &pair).await;
    trigger(&store, &pair).await;
    trigger(&store, &pair).await;
    let worker = register(&store, "one").await;
    let first = claim(&store, worker, 1).await.pop().unwrap();
    let running = first.execution.instance_id;
    let second = claim(&store, worker, 1).await.pop().unwrap();
    store.settle(&[ended(second, sleep(0))]).await.unwrap();
    mends(
        &store,
        &format!(
            "delete from ready; delete from sleeper; \
             insert into ready (instance_id, run_id, pool, queue, priority, slots) \
                 values ({running}, 1, 'default', 'default', 0, 1), (999, 1, 'default', 'default', 0, 1); \
             insert into sleeper (instance_id, run_id, wake_at, reason) \
                 values ({running}, 1, now(), 'a bug'), (999, 1, now(), 'a bug')"
        ),
        &[
            FindingKind::ReadyMissing,
            FindingKind::ReadyMissing,
            FindingKind::ReadyExtra,
            FindingKind::ReadyExtra,
            FindingKind::SleeperMissing,
            FindingKind::SleeperExtra,
            FindingKind::SleeperExtra,
        ],
    )
    .await;
    store.settle(&[ended(first, success())]).await.unwrap();
    store.wake(TimeDelta::zero()).await.unwrap();
    assert_eq!(
        succeed(&store, worker).await.len(),
        3,
        "what slept was woken"
    );
    assert_eq!(number(&store, "select count(*) from ready").await, 0);
}

#[tokio::test]
async fn a_ready_row_that_says_other_than_its_task_is_corrected() {
    let (store, _, _, _) = scene(&[("a", &[])]).await;
    let repaired = mends(
        &store,
        "update ready set pool = 'other', queue = 'gpu', priority = 9, slots = 4, gates = '{key:x}', run_id = 77",
        &[FindingKind::ReadyWrong, FindingKind::GateMissing],
    )
    .await;
    let finding = repaired
        .found
        .findings
        .iter()
        .find(|finding| finding.kind == FindingKind::ReadyWrong)
        .unwrap();
    assert_eq!(
        (finding.stored.as_str(), finding.expected.as_str()),
        (
            "run 77, pool other, queue gpu, priority 9, 4 slots, gates {key:x}",
            "run 1, pool default, queue default, priority 0, 1 slots, gates {}"
        )
    );
}

#[tokio::test]
async fn what_a_sleep_left_behind_for_a_try_that_is_over_is_forgotten() {
    let (store, _, _, worker) = scene(&[("a", &[]), ("b", &["a"])]).await;
    let sleeps = claim(&store, worker, 1).await.pop().unwrap();
    store.settle(&[ended(sleeps, sleep(0))]).await.unwrap();
    assert_eq!(found(&store).await, [], "what sleeps has something left");
    store.wake(DAY).await.unwrap();
    succeed_one(&store, worker).await;
    mends(
        &store,
        "insert into resume (instance_id, resume) select instance_id, '{}' from task_instance where ordinal = 0; \
         insert into resume (instance_id, resume) values (999, '{}')",
        &[FindingKind::ResumeExtra, FindingKind::ResumeExtra],
    )
    .await;
    assert_eq!(number(&store, "select count(*) from resume").await, 0);
}

#[tokio::test]
async fn slots_of_a_pool_are_held_by_what_runs_and_by_nothing_else() {
    let (store, _) = fresh_store().await;
    let mut trio = dag("trio", &[("a", &[]), ("b", &[]), ("c", &[])]);
    for task in &mut trio.tasks {
        task.pool = "narrow".to_owned();
        task.slots = 2;
    }
    publish(&store, &trio).await;
    limit_pool(&store, "narrow", 3).await;
    trigger(&store, &trio).await;
    let worker = register(&store, "one").await;
    let running = claim(&store, worker, 3).await;
    assert_eq!(running.len(), 1);
    mends(
        &store,
        "delete from pool_use; \
         insert into pool_use (instance_id, pool, slots) \
             select instance_id, 'narrow', 1 from task_instance where ordinal = 2; \
         insert into pool_use (instance_id, pool, slots) values (999, 'narrow', 1)",
        &[
            FindingKind::PoolUseExtra,
            FindingKind::PoolUseExtra,
            FindingKind::PoolUseMissing,
        ],
    )
    .await;
    assert_eq!(
        number(&store, "select sum(slots) from pool_use").await,
        2,
        "as many as the task takes"
    );
    for one in running {
        store.settle(&[ended(one, success())]).await.unwrap();
    }
    assert_eq!(
        succeed(&store, worker).await.len(),
        2,
        "a slot that nothing holds keeps nobody from being claimed"
    );
}

#[tokio::test]
async fn a_pool_that_was_limited_while_tasks_ran_counts_them_after_a_repair() {
    let (store, _, _, worker) = scene(&[("a", &[]), ("b", &[])]).await;
    assert_eq!(claim(&store, worker, 1).await.len(), 1);
    mends(
        &store,
        "update pool set slots = 1 where pool = 'default'",
        &[FindingKind::PoolUseMissing],
    )
    .await;
    limit_pool(&store, "default", 1).await;
    assert!(claim(&store, worker, 1).await.is_empty());
}

/// A run of two tasks with the concurrency key `x`, of which the first runs and the second is parked.
async fn gated_scene() -> (Store, InstanceId, InstanceId) {
    let (store, _) = fresh_store().await;
    let mut pair = dag("pair", &[("a", &[]), ("b", &[])]);
    for task in &mut pair.tasks {
        task.concurrency = Some(Concurrency {
            key: "x".to_owned(),
            limit: 2,
        });
    }
    publish(&store, &pair).await;
    trigger(&store, &pair).await;
    let worker = register(&store, "one").await;
    // By hand, so that these tests are about the check alone.
    break_it(
        &store,
        "insert into gate (gate, slots) values ('key:x', 1) on conflict (gate) do update set slots = 1; \
         update task_instance set gates = '{key:x}'; update ready set gates = '{}', parked = false; delete from parked",
    )
    .await;
    let running = claim(&store, worker, 1).await.pop().unwrap();
    break_it(
        &store,
        "insert into gate_use (gate, instance_id) select 'key:x', instance_id from task_instance where state = 'running' \
             on conflict do nothing; \
         update ready set gates = '{key:x}', parked = true; \
         insert into parked (gate, pool, queue, priority, instance_id) \
             select 'key:x', pool, queue, priority, instance_id from ready",
    )
    .await;
    assert_eq!(found(&store).await, []);
    let parked = number(&store, "select instance_id from parked").await;
    (store, running.execution.instance_id, InstanceId(parked))
}

async fn is_parked(store: &Store, instance: InstanceId) -> bool {
    let parked = sqlx::query_scalar("select parked from ready where instance_id = $1")
        .bind(instance.0)
        .fetch_one(&store.people)
        .await
        .unwrap();
    let rows: i64 = sqlx::query_scalar("select count(*) from parked where instance_id = $1")
        .bind(instance.0)
        .fetch_one(&store.people)
        .await
        .unwrap();
    assert_eq!(parked, rows > 0, "parked rows and the ready row agree");
    parked
}

#[tokio::test]
async fn parked_rows_and_ready_rows_that_disagree_are_let_out() {
    for statements in [
        "delete from parked",
        "update ready set parked = false",
        "update parked set gate = 'key:other'",
        "update parked set priority = 9",
    ] {
        let (store, _, parked) = gated_scene().await;
        mends(&store, statements, &[FindingKind::ParkedWrong]).await;
        assert!(!is_parked(&store, parked).await);
    }
    let (store, _, parked) = gated_scene().await;
    mends(
        &store,
        "insert into parked (gate, pool, queue, priority, instance_id) values ('key:x', 'default', 'default', 0, 999)",
        &[FindingKind::ParkedWrong],
    )
    .await;
    assert!(is_parked(&store, parked).await, "the others stay");
}

#[tokio::test]
async fn what_nobody_would_let_out_of_a_gate_is_let_out() {
    let (store, running, parked) = gated_scene().await;
    break_it(&store, "update gate set slots = 2").await;
    assert_eq!(
        found(&store).await,
        [],
        "a gate with room is no finding while something runs behind it, which will let out"
    );
    let repaired = mends(
        &store,
        &format!(
            "delete from gate_use; update task_instance set gates = null where instance_id = {running}"
        ),
        &[FindingKind::ParkedForever],
    )
    .await;
    assert_eq!(only(&repaired).instance_id, Some(parked));
    assert!(!is_parked(&store, parked).await);
}

#[tokio::test]
async fn what_waits_behind_something_claimable_is_not_parked_for_ever() {
    let (store, running, parked) = gated_scene().await;
    // The first is claimable again: whoever claims it will let the other out.
    break_it(
        &store,
        &format!(
            "delete from gate_use; \
             update task_instance set state = 'queued', worker_id = null where instance_id = {running}; \
             insert into ready (instance_id, run_id, pool, queue, priority, slots, gates) \
                 values ({running}, 1, 'default', 'default', 0, 1, '{{key:x}}')"
        ),
    )
    .await;
    assert_eq!(found(&store).await, []);
    assert!(is_parked(&store, parked).await);
}

#[tokio::test]
async fn places_behind_a_gate_are_held_by_what_runs_and_by_nothing_else() {
    let (store, running, parked) = gated_scene().await;
    mends(
        &store,
        &format!(
            "delete from gate_use; insert into gate_use (gate, instance_id) \
             values ('key:x', {parked}), ('key:other', {running}), ('key:x', 999)"
        ),
        &[
            FindingKind::GateUseExtra,
            FindingKind::GateUseExtra,
            FindingKind::GateUseExtra,
            FindingKind::GateUseMissing,
        ],
    )
    .await;
    assert_eq!(
        number(&store, "select instance_id from gate_use").await,
        running.0
    );
    assert!(is_parked(&store, parked).await);
}

#[tokio::test]
async fn a_place_given_back_lets_out_what_was_parked_behind_it() {
    let (store, running, parked) = gated_scene().await;
    // The first has ended, and whoever ended it did not let out.
    break_it(
        &store,
        &format!(
            "update task_instance set state = 'success', worker_id = null, finished_at = now() \
                 where instance_id = {running}; \
             update run set unfinished = 1; delete from pool_use"
        ),
    )
    .await;
    assert_eq!(found(&store).await, [FindingKind::GateUseExtra]);
    let repaired = store.repair("ada").await.unwrap();
    assert_eq!(repaired.left.findings, []);
    assert!(!is_parked(&store, parked).await);
}

#[tokio::test]
async fn a_gate_that_is_gone_is_put_up_again_as_wide_as_its_dag_says() {
    let (store, _, parked) = gated_scene().await;
    break_it(&store, "delete from gate").await;
    assert_eq!(
        found(&store).await,
        [FindingKind::GateMissing, FindingKind::ParkedForever],
        "who ends behind a gate that is gone lets nobody out"
    );
    let repaired = store.repair("ada").await.unwrap();
    assert_eq!(repaired.left.findings, []);
    assert_eq!(number(&store, "select slots::bigint from gate").await, 2);
    is_parked(&store, parked).await;
}

#[tokio::test]
async fn what_a_worker_held_that_is_gone_is_settled_as_lost() {
    for gone in [
        "update worker set ended_at = now()",
        "delete from worker",
        "update worker set ended_at = now(); update run set unfinished = 0; \
         update task_instance set pending = 0 where ordinal = 1",
    ] {
        let (store, _, run, worker) = scene(&[("a", &[]), ("b", &["a"])]).await;
        let late = claim(&store, worker, 1).await.pop().unwrap();
        let instance = late.execution.instance_id;
        break_it(&store, gone).await;
        assert!(found(&store).await.contains(&FindingKind::WorkerGone));
        let repaired = store.repair("ada").await.unwrap();
        assert_eq!(repaired.left.findings, []);
        check_invariants(&store).await;
        let tries = store.tries(instance).await.unwrap();
        assert_eq!(tries.len(), 1);
        assert_eq!(tries[0].outcome, Some(crate::model::TryOutcome::Lost));
        let refused = store.settle(&[ended(late, success())]).await.unwrap();
        assert_eq!(refused.refused, [instance], "its late result is refused");
        let other = register(&store, "other").await;
        assert_eq!(succeed(&store, other).await, ["a", "b"]);
        assert_eq!(run_state(&store, run).await, RunState::Success);
        assert_eq!(
            store.instances(run).await.unwrap()[0].tries,
            1,
            "it cost no try"
        );
    }
}

#[tokio::test]
async fn a_worker_whose_lease_is_long_over_is_ended_as_the_reaper_would() {
    let (store, _, run, worker) = scene(&[("a", &[])]).await;
    assert_eq!(claim(&store, worker, 1).await.len(), 1);
    break_it(
        &store,
        "update worker set lease_until = now() - interval '20 seconds'",
    )
    .await;
    assert_eq!(found(&store).await, [], "a reaper may be about to");
    let repaired = mends(
        &store,
        "update worker set lease_until = now() - interval '5 minutes'",
        &[FindingKind::WorkerNotEnded],
    )
    .await;
    assert!(only(&repaired).stored.contains("(one)"));
    assert_eq!(states(&store, run).await["a"], TaskState::Queued);
}

#[tokio::test]
async fn task_instances_that_outlived_their_run_are_cancelled() {
    let (store, _, run, worker) = scene(&[("a", &[]), ("b", &["a"]), ("c", &[]), ("d", &[])]).await;
    let running = claim(&store, worker, 1).await.pop().unwrap();
    let sleeping = claim(&store, worker, 1).await.pop().unwrap();
    store.settle(&[ended(sleeping, sleep(0))]).await.unwrap();
    mends(
        &store,
        "update run set state = 'success', finished_at = now()",
        &[
            FindingKind::ReadyExtra,
            FindingKind::SleeperExtra,
            FindingKind::UnfinishedInFinalRun,
            FindingKind::UnfinishedInFinalRun,
            FindingKind::UnfinishedInFinalRun,
            FindingKind::UnfinishedInFinalRun,
        ],
    )
    .await;
    assert_eq!(run_state(&store, run).await, RunState::Success);
    assert!(
        states(&store, run)
            .await
            .values()
            .all(|state| *state == TaskState::Cancelled)
    );
    let instance = running.execution.instance_id;
    assert_eq!(
        store.tries(instance).await.unwrap()[0].reason.as_deref(),
        Some("cancelled by ada: its run was final")
    );
    store
        .clear(ClearRequest {
            run_id: run,
            selection: ClearSelection::WholeRun,
            scope: ClearScope::Only,
            version: crate::store::ClearVersion::Same,
            actor: "ada".to_owned(),
        })
        .await
        .unwrap();
    assert_eq!(succeed(&store, worker).await.len(), 4);
}

#[tokio::test]
async fn a_task_instance_without_a_run_is_removed_with_what_belongs_to_it() {
    let (store, _, _, worker) = scene(&[("a", &[]), ("b", &[])]).await;
    let claimed = claim(&store, worker, 1).await.pop().unwrap();
    store
        .settle(&[ended(claimed, Ending::GivenBack)])
        .await
        .unwrap();
    mends(
        &store,
        "delete from run; insert into output (instance_id, output) select instance_id, '{}' from task_instance",
        &[
            FindingKind::ReadyExtra,
            FindingKind::ReadyExtra,
            FindingKind::InstanceWithoutRun,
            FindingKind::InstanceWithoutRun,
        ],
    )
    .await;
    let left = number(
        &store,
        "select (select count(*) from task_instance) + (select count(*) from ready) + (select count(*) from output)",
    )
    .await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_schedule_without_a_next_tick_gets_one_and_what_passed_is_for_catchup_to_decide() {
    let (store, _) = fresh_store().await;
    let mut hourly = dag("hourly", &[("a", &[])]);
    hourly.schedule = Some(Schedule::parse_cron("0 * * * *", chrono_tz::Tz::UTC).unwrap());
    publish(&store, &hourly).await;
    let by_hand = dag("by_hand", &[("a", &[])]);
    publish(&store, &by_hand).await;
    store
        .begin_watch(Duration::from_secs(60), TimeDelta::zero())
        .await
        .unwrap();
    let repaired = mends(
        &store,
        "update dag set next_fire_at = null, next_logical_date = null, \
             schedule_since = schedule_since - interval '3 days', active_since = active_since - interval '3 days'; \
         update watch set since = since - interval '3 days'",
        &[FindingKind::ScheduleMissing],
    )
    .await;
    assert_eq!(only(&repaired).dag_id, Some(hourly.id.clone()));
    let row = store.dag(&hourly.id).await.unwrap().unwrap();
    assert!(row.next_fire_at.unwrap() > chrono::Utc::now() - TimeDelta::minutes(1));
    store.schedule_due(TimeDelta::hours(1)).await.unwrap();
    let runs = number(
        &store,
        "select count(*) from run where dag_id = 'hourly' and kind = 'scheduled'",
    )
    .await;
    assert_eq!(runs, 1, "three days are not made up for");
}

#[tokio::test]
async fn a_repair_is_in_the_audit_trail() {
    let (store, _, _, _) = scene(&[("a", &[])]).await;
    mends(&store, "delete from ready", &[FindingKind::ReadyMissing]).await;
    let notes = number(
        &store,
        "select count(*) from audit where actor = 'ada' and action = 'repair' \
             and detail -> 'found' ->> 'ready_missing' = '1'",
    )
    .await;
    assert_eq!(notes, 1);
}

/// As if everything were wrong with a run.
async fn suspect_everything(store: &Store, dag_id: &DagId, run: RunId) -> Vec<Finding> {
    let kinds = [
        FindingKind::Counters,
        FindingKind::RunNotStarted,
        FindingKind::ReadyExtra,
        FindingKind::SleeperMissing,
        FindingKind::PoolUseExtra,
        FindingKind::GateUseExtra,
        FindingKind::WorkerGone,
        FindingKind::UnfinishedInFinalRun,
    ];
    let instances = store.instances(run).await.unwrap();
    let about = |row: &InstanceRow| {
        kinds.map(|kind| Finding {
            kind,
            dag_id: Some(dag_id.clone()),
            run_id: Some(run),
            task_id: Some(row.task_id.clone()),
            map_index: Some(row.map_index),
            instance_id: Some(row.instance_id),
            stored: String::new(),
            expected: String::new(),
        })
    };
    instances.iter().flat_map(about).collect()
}

/// Mends running runs and some queued ones as if everything were wrong with them.
pub(crate) async fn mend_open_runs(store: &Store) -> u64 {
    let mut changed = 0;
    for (state, limit) in [(RunState::Running, 10), (RunState::Queued, 3)] {
        let filter = RunFilter {
            states: vec![state],
            limit,
            ..RunFilter::default()
        };
        for run in store.runs(&filter).await.unwrap() {
            let suspected = suspect_everything(store, &run.dag_id, run.run_id).await;
            changed += store.mend(&suspected, "ada").await.unwrap();
        }
    }
    changed
}

#[tokio::test]
async fn a_repair_beside_a_claim_that_is_under_way_makes_nothing_claimable_twice() {
    let (store, dag, run, worker) = scene(&[("a", &[]), ("b", &[]), ("c", &["a", "b"])]).await;
    let suspected = suspect_everything(&store, &dag.id, run).await;
    let mut claiming = store.engine.begin().await.unwrap();
    let queues = queues();
    let appetite = Appetite {
        worker_id: worker,
        queues: &queues,
        slots: 1,
    };
    store.claim_by(&mut claiming, appetite).await.unwrap();
    // It waits for nobody who has not committed: otherwise this would never end.
    assert_eq!(store.mend(&suspected, "ada").await.unwrap(), 0);
    claiming.commit().await.unwrap();
    let running = "select count(*) from task_instance where state = 'running'";
    assert_eq!(number(&store, running).await, 1);
    assert_eq!(found(&store).await, []);
    check_invariants(&store).await;
    let ran = claim(&store, worker, 8).await;
    assert_eq!(ran.len(), 1, "only the other one may be claimed");
}

#[tokio::test]
async fn repairing_what_is_not_broken_changes_nothing_at_any_point_of_a_run() {
    let (store, _) = fresh_store().await;
    let mut diamond = dag(
        "diamond",
        &[("a", &[]), ("b", &["a"]), ("c", &["a"]), ("d", &["b", "c"])],
    );
    diamond.max_active_runs = 1;
    publish(&store, &diamond).await;
    let run = trigger(&store, &diamond).await;
    let next = trigger(&store, &diamond).await;
    let worker = register(&store, "one").await;
    for step in 0..5 {
        for run in [run, next] {
            let suspected = suspect_everything(&store, &diamond.id, run).await;
            assert_eq!(
                store.mend(&suspected, "ada").await.unwrap(),
                0,
                "step {step}"
            );
        }
        check_invariants(&store).await;
        let Some(claimed) = claim(&store, worker, 1).await.pop() else {
            panic!("there is something to do in step {step}");
        };
        let suspected = suspect_everything(&store, &diamond.id, run).await;
        assert_eq!(
            store.mend(&suspected, "ada").await.unwrap(),
            0,
            "step {step}"
        );
        let ending = if step == 1 { sleep(0) } else { success() };
        store.settle(&[ended(claimed, ending)]).await.unwrap();
        if step == 2 {
            let suspected = suspect_everything(&store, &diamond.id, run).await;
            assert_eq!(store.mend(&suspected, "ada").await.unwrap(), 0);
            store.wake(DAY).await.unwrap();
        }
    }
    assert_eq!(run_state(&store, run).await, RunState::Success);
    assert_eq!(run_state(&store, next).await, RunState::Running);
}
