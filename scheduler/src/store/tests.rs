//! The store against a real Postgres.

mod again;
mod alerts;
mod backfills;
mod calls;
mod check;
mod datasets;
mod left_over;
mod model;
mod plans;
mod published_bugs;
mod rerun;
mod retain;
mod schedules;
pub(crate) mod secrets;
mod time_limits;
mod why;
pub(crate) mod witness;

pub(crate) use check::mend_open_runs;

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use pinwheel_tasks::{CursorMove, Durable, DurableError, Failure};
use serde_json::json;
use sqlx::AssertSqlSafe;

use super::*;
use crate::{
    model::{DagId, RunId, RunState, TaskState, WorkerId},
    testing::{dag, fresh_store, publish, run_state, states, trigger},
};

mod pools;
mod workers;

const DAY: TimeDelta = TimeDelta::days(1);

fn queues() -> Vec<String> {
    vec!["default".to_owned()]
}

pub(crate) async fn register(store: &Store, name: &str) -> WorkerId {
    let queues = queues();
    let who = Heartbeat {
        name,
        version: "test",
        queues: &queues,
        labels: &BTreeMap::new(),
        slots: 8,
        schedules: false,
        lease: Duration::from_secs(600),
    };
    store.register(who).await.unwrap()
}

pub(crate) async fn claim(store: &Store, worker_id: WorkerId, slots: usize) -> Vec<Claimed> {
    store
        .claim(Appetite {
            worker_id,
            queues: &queues(),
            slots,
        })
        .await
        .unwrap()
        .claimed
}

pub(crate) fn ended(claimed: Claimed, ending: Ending) -> Ended {
    Ended {
        execution: claimed.execution,
        ending,
        lines: Vec::new(),
        rendered: None,
        span: None,
    }
}

pub(crate) fn success() -> Ending {
    Ending::Success { output: json!({}) }
}

async fn sql(store: &Store, statement: String) -> u64 {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&store.people)
        .await
        .unwrap()
        .rows_affected()
}

pub(crate) async fn number(store: &Store, query: &'static str) -> i64 {
    sqlx::query_scalar(query)
        .fetch_one(&store.people)
        .await
        .unwrap()
}

async fn expire(store: &Store, worker: WorkerId) {
    sql(
        store,
        format!(
            "update worker set lease_until = now() - interval '1 hour' where worker_id = {worker}"
        ),
    )
    .await;
}

/// Limits a pool as its settings would.
pub(crate) async fn limit_pool(store: &Store, pool: &str, slots: i32) {
    sql(
        store,
        format!("update pool set slots = {slots} where pool = '{pool}'"),
    )
    .await;
    store.note(Seen::LimitedPools, true);
}

/// Lets every lease be over.
pub(crate) async fn expire_workers(store: &Store) {
    sql(
        store,
        "update worker set lease_until = now() - interval '1 hour'".to_owned(),
    )
    .await;
}

/// Cuts every connection to a database but the one that does it; returns how many.
pub(crate) async fn cut_connections(url: &str) -> usize {
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(url)
        .await
        .unwrap();
    let cut: Vec<bool> = sqlx::query_scalar(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    cut.len()
}

/// What must hold between any two transactions.
pub(crate) async fn check_invariants(store: &Store) {
    let wrong_counters = number(
        store,
        "select count(*) from task_instance d join run r using (run_id) cross join lateral (
            select count(u.instance_id) filter (where u.state in ('waiting', 'queued', 'running', 'sleeping')) as pending,
                count(u.instance_id) filter (where u.state = 'success') as ok,
                count(u.instance_id) filter (where u.state in ('failed', 'cancelled')) as failed,
                count(u.instance_id) filter (where u.state = 'upstream_failed') as upstream_failed,
                count(u.instance_id) filter (where u.state = 'skipped') as skipped
            from edge e join task_instance u on u.run_id = r.run_id and u.ordinal = e.upstream
            where e.version_id = r.version_id and e.downstream = d.ordinal) t
        where (d.pending, d.ok, d.failed, d.upstream_failed, d.skipped)
            <> (t.pending, t.ok, t.failed, t.upstream_failed, t.skipped)",
    )
    .await;
    assert_eq!(wrong_counters, 0, "counters equal a recount");
    let wrong_runs = number(
        store,
        "select count(*) from run r where r.state = 'running' and r.unfinished <> (
            select count(*) from task_instance i where i.run_id = r.run_id
                and i.state in ('waiting', 'queued', 'running', 'sleeping'))",
    )
    .await;
    assert_eq!(wrong_runs, 0, "`unfinished` equals a recount");
    let wrong_ready = number(
        store,
        "select (select count(*) from ready q full join
                (select instance_id, true as queued from task_instance where state = 'queued') i using (instance_id)
            where q.pool is null or i.queued is null)
            + (select count(*) from sleeper s full join
                (select instance_id, true as sleeps from task_instance where state = 'sleeping') i using (instance_id)
            where s.wake_at is null or i.sleeps is null)",
    )
    .await;
    assert_eq!(
        wrong_ready, 0,
        "what may be claimed is what is queued, what wakes is what sleeps"
    );
    let held = number(
        store,
        "select count(*) from pool_use u left join task_instance i using (instance_id) where i.state is distinct from 'running'",
    )
    .await;
    assert_eq!(held, 0, "only running tasks hold slots of a pool");
}

#[tokio::test]
async fn a_chain_runs_through_without_a_scheduler() {
    let (store, _) = fresh_store().await;
    let chain = dag("chain", &[("a", &[]), ("b", &["a"]), ("c", &["b"])]);
    publish(&store, &chain).await;
    let run = trigger(&store, &chain).await;
    let worker = register(&store, "one").await;
    let mut claimed = claim(&store, worker, 8).await;
    for expected in ["a", "b", "c"] {
        assert_eq!(claimed.len(), 1);
        assert_eq!(claimed[0].task().id.as_str(), expected);
        check_invariants(&store).await;
        let batch = [ended(claimed.pop().unwrap(), success())];
        let appetite = Appetite {
            worker_id: worker,
            queues: &queues(),
            slots: 8,
        };
        let settled = store.settle_and_claim(&batch, appetite).await.unwrap();
        assert!(settled.refused.is_empty());
        assert_eq!(
            settled.effects,
            Effects::default(),
            "nothing is left for others"
        );
        claimed = settled.taken.claimed;
    }
    assert_eq!(run_state(&store, run).await, RunState::Success);
    check_invariants(&store).await;
}

#[tokio::test]
async fn fan_in_promotes_once_though_two_upstream_finish_together() {
    let (store, _) = fresh_store().await;
    let fan = dag("fan", &[("a", &[]), ("b", &[]), ("c", &["a", "b"])]);
    publish(&store, &fan).await;
    for round in 0..20 {
        trigger(&store, &fan).await;
        let one = register(&store, "one").await;
        let two = register(&store, "two").await;
        let first = [ended(claim(&store, one, 1).await.pop().unwrap(), success())];
        let second = [ended(claim(&store, two, 1).await.pop().unwrap(), success())];
        let (first, second) = tokio::join!(store.settle(&first), store.settle(&second));
        assert!(
            first.unwrap().effects.work ^ second.unwrap().effects.work,
            "round {round}"
        );
        let mut joined = claim(&store, one, 8).await;
        assert_eq!(joined.len(), 1, "round {round}");
        store
            .settle(&[ended(joined.pop().unwrap(), success())])
            .await
            .unwrap();
        check_invariants(&store).await;
    }
}

#[tokio::test]
async fn a_lost_lease_cannot_complete() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[]), ("b", &["a"])]);
    publish(&store, &single).await;
    let run = trigger(&store, &single).await;
    let zombie = register(&store, "zombie").await;
    let late = ended(claim(&store, zombie, 1).await.pop().unwrap(), success());
    expire(&store, zombie).await;
    let reaped = store.reap().await.unwrap();
    assert!(reaped.effects.work);
    check_invariants(&store).await;

    assert_eq!(
        store
            .renew(zombie, Duration::from_secs(30), &[])
            .await
            .unwrap(),
        None,
        "it learns that it is over"
    );
    assert!(
        claim(&store, zombie, 1).await.is_empty(),
        "and claims nothing more"
    );
    let healthy = register(&store, "healthy").await;
    let again = claim(&store, healthy, 1).await.pop().unwrap();
    assert_eq!(
        (again.execution.tries, again.execution.epoch),
        (1, 2),
        "a lost execution costs no try"
    );

    let settled = store.settle(&[late]).await.unwrap();
    assert_eq!(settled.refused, [again.execution.instance_id]);
    assert_eq!(states(&store, run).await["a"], TaskState::Running);
    assert_eq!(states(&store, run).await["b"], TaskState::Waiting);
    let instance = again.execution.instance_id;
    store.settle(&[ended(again, success())]).await.unwrap();
    let tries = store.tries(instance).await.unwrap();
    assert_eq!(
        tries.iter().map(|row| row.outcome).collect::<Vec<_>>(),
        [
            Some(crate::model::TryOutcome::Lost),
            Some(crate::model::TryOutcome::Success)
        ]
    );
}

#[tokio::test]
async fn a_task_that_brings_its_worker_down_fails_in_the_end() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let run = trigger(&store, &single).await;
    for _ in 0..crate::model::retry::LOST_ALLOWED {
        assert_eq!(run_state(&store, run).await, RunState::Running);
        let worker = register(&store, "doomed").await;
        assert_eq!(claim(&store, worker, 1).await.len(), 1);
        expire(&store, worker).await;
        store.reap().await.unwrap();
    }
    assert_eq!(run_state(&store, run).await, RunState::Failed);
    check_invariants(&store).await;
}

#[tokio::test]
async fn a_settle_whose_answer_was_lost_is_not_refused_the_second_time() {
    let (store, _) = fresh_store().await;
    let chain = dag("chain", &[("a", &[]), ("b", &["a"])]);
    publish(&store, &chain).await;
    trigger(&store, &chain).await;
    let worker = register(&store, "one").await;
    let batch = [ended(
        claim(&store, worker, 1).await.pop().unwrap(),
        success(),
    )];
    let appetite = Appetite {
        worker_id: worker,
        queues: &queues(),
        slots: 1,
    };
    let lost_answer = store.settle_and_claim(&batch, appetite).await.unwrap();
    assert_eq!(lost_answer.taken.claimed.len(), 1);
    let again = store.settle(&batch).await.unwrap();
    assert!(again.refused.is_empty());
    let held = store.held_by(worker).await.unwrap();
    assert_eq!(
        held.len(),
        1,
        "what the lost answer claimed is found by reading"
    );
    assert_eq!(
        held[0].execution.instance_id,
        lost_answer.taken.claimed[0].execution.instance_id
    );
    check_invariants(&store).await;
}

#[tokio::test]
async fn a_retry_sleeps_then_runs() {
    let (store, _) = fresh_store().await;
    let mut single = dag("single", &[("a", &[])]);
    single.tasks[0].retries = 1;
    publish(&store, &single).await;
    let run = trigger(&store, &single).await;
    let worker = register(&store, "one").await;
    let first = claim(&store, worker, 1).await.pop().unwrap();
    let settled = store
        .settle(&[ended(first, Ending::Failed(Failure::retryable("not yet")))])
        .await
        .unwrap();
    assert!(settled.effects.deadline);
    let row = &store.instances(run).await.unwrap()[0];
    assert_eq!(
        (row.state, row.sleep_reason),
        (TaskState::Sleeping, Some(crate::model::SleepReason::Retry))
    );
    assert_eq!(row.reason.as_deref(), Some("not yet"));
    assert!(
        !store.wake(TimeDelta::zero()).await.unwrap().work,
        "not before its time"
    );
    check_invariants(&store).await;
    assert!(store.wake(DAY).await.unwrap().work);
    let second = claim(&store, worker, 1).await.pop().unwrap();
    assert_eq!(second.execution.tries, 2);
    store
        .settle(&[ended(second, Ending::Failed(Failure::retryable("never")))])
        .await
        .unwrap();
    assert_eq!(run_state(&store, run).await, RunState::Failed);
    check_invariants(&store).await;
}

#[tokio::test]
async fn a_task_that_sleeps_goes_on_with_the_same_try_and_what_it_left() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let run = trigger(&store, &single).await;
    let worker = register(&store, "one").await;
    let mut lost = false;
    for step in 0..3 {
        let claimed = claim(&store, worker, 1).await.pop().unwrap();
        assert_eq!(claimed.execution.tries, 1);
        assert_eq!(
            claimed.resume,
            (step > 0).then(|| json!({ "step": step - 1 }))
        );
        let ending = if step == 1 && !lost {
            // Given back in between: it still goes on from what it left.
            lost = true;
            store
                .settle(&[ended(claimed, Ending::GivenBack)])
                .await
                .unwrap();
            let again = claim(&store, worker, 1).await.pop().unwrap();
            assert_eq!(
                (again.execution.tries, again.resume.clone()),
                (1, Some(json!({ "step": 0 })))
            );
            store.settle(&[ended(again, sleep(step))]).await.unwrap();
            store.wake(DAY).await.unwrap();
            continue;
        } else {
            sleep(step)
        };
        store.settle(&[ended(claimed, ending)]).await.unwrap();
        check_invariants(&store).await;
        store.wake(DAY).await.unwrap();
    }
    let last = claim(&store, worker, 1).await.pop().unwrap();
    store.settle(&[ended(last, success())]).await.unwrap();
    assert_eq!(run_state(&store, run).await, RunState::Success);
    assert_eq!(number(&store, "select count(*) from resume").await, 0);
}

fn sleep(step: i32) -> Ending {
    Ending::Sleep {
        wake_after: Duration::from_secs(60),
        reason: "later".to_owned(),
        resume: json!({ "step": step }),
    }
}

#[tokio::test]
async fn a_cancelled_run_is_final_and_its_worker_hears_of_it() {
    let (store, _) = fresh_store().await;
    let mut chain = dag("chain", &[("a", &[]), ("b", &["a"]), ("c", &[])]);
    chain.max_active_runs = 1;
    publish(&store, &chain).await;
    let run = trigger(&store, &chain).await;
    let next = trigger(&store, &chain).await;
    assert_eq!(run_state(&store, next).await, RunState::Queued);
    let worker = register(&store, "one").await;
    let running = claim(&store, worker, 1).await.pop().unwrap();
    assert_eq!(
        store.cancel_run(run, "ada").await.unwrap(),
        RunState::Cancelled
    );
    check_invariants(&store).await;
    assert!(
        states(&store, run)
            .await
            .values()
            .all(|state| *state == TaskState::Cancelled)
    );
    assert_eq!(
        run_state(&store, next).await,
        RunState::Running,
        "its place goes to the next run"
    );
    let held = [(running.execution.instance_id, running.execution.epoch)];
    let renewed = store
        .renew(worker, Duration::from_secs(30), &held)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(renewed.lost, [running.execution.instance_id]);
    let instance = running.execution.instance_id;
    assert_eq!(
        store
            .settle(&[ended(running, success())])
            .await
            .unwrap()
            .refused,
        [instance]
    );
    assert!(matches!(
        store.cancel_run(run, "ada").await,
        Err(Error::RunIsFinal { .. })
    ));
    assert_eq!(
        store.tries(instance).await.unwrap()[0].reason.as_deref(),
        Some("cancelled by ada")
    );
}

#[tokio::test]
async fn clear_with_downstream_runs_again_and_keeps_history() {
    let (store, _) = fresh_store().await;
    let mut diamond = dag(
        "diamond",
        &[("a", &[]), ("b", &["a"]), ("c", &["a"]), ("d", &["b", "c"])],
    );
    diamond.tasks[1].retries = 1;
    publish(&store, &diamond).await;
    let run = trigger(&store, &diamond).await;
    let worker = register(&store, "one").await;
    run_all(&store, worker, |_| success()).await;
    assert_eq!(run_state(&store, run).await, RunState::Success);
    let request = |selection, scope| ClearRequest {
        run_id: run,
        selection,
        scope,
        version: crate::store::ClearVersion::Same,
        actor: "ada".to_owned(),
    };
    let b = vec![diamond.tasks[1].id.clone()];
    let cleared = store
        .clear(request(
            ClearSelection::Tasks(b.clone()),
            ClearScope::WithDownstream,
        ))
        .await
        .unwrap();
    assert_eq!(
        cleared
            .tasks
            .iter()
            .map(|task| task.as_str())
            .collect::<Vec<_>>(),
        ["b", "d"]
    );
    check_invariants(&store).await;
    assert_eq!(run_state(&store, run).await, RunState::Running);
    let active = store
        .clear(request(ClearSelection::Tasks(b), ClearScope::Only))
        .await;
    assert!(matches!(active, Err(Error::TaskIsActive { .. })));
    let ran = run_all(&store, worker, |task| {
        if task == "b" {
            Ending::Failed(Failure::permanent("broken"))
        } else {
            success()
        }
    })
    .await;
    assert_eq!(ran, ["b"]);
    assert_eq!(run_state(&store, run).await, RunState::Failed);
    let row = store
        .instances(run)
        .await
        .unwrap()
        .into_iter()
        .find(|row| row.task_id.as_str() == "b")
        .unwrap();
    assert_eq!((row.tries, row.tries_allowed), (2, 3));
    assert_eq!(store.tries(row.instance_id).await.unwrap().len(), 2);
    store
        .clear(request(ClearSelection::Failed, ClearScope::Only))
        .await
        .unwrap();
    check_invariants(&store).await;
    assert_eq!(run_all(&store, worker, |_| success()).await, ["b", "d"]);
    assert_eq!(run_state(&store, run).await, RunState::Success);
    check_invariants(&store).await;
}

/// Claims and settles until nothing is left; returns the tasks in the order they ran.
async fn run_all(store: &Store, worker: WorkerId, ending: impl Fn(&str) -> Ending) -> Vec<String> {
    let mut ran = Vec::new();
    loop {
        let claimed = claim(store, worker, 8).await;
        if claimed.is_empty() {
            return ran;
        }
        let batch: Vec<Ended> = claimed
            .into_iter()
            .map(|one| {
                let task = one.task().id.to_string();
                let ending = ending(&task);
                ran.push(task);
                ended(one, ending)
            })
            .collect();
        store.settle(&batch).await.unwrap();
    }
}

#[tokio::test]
async fn a_pools_slots_are_never_exceeded_and_a_full_pool_delays_no_other() {
    let (store, _) = fresh_store().await;
    let names: Vec<String> = (0..12).map(|number| format!("task_{number}")).collect();
    let tasks: Vec<(&str, &[&str])> = names
        .iter()
        .map(|name| (name.as_str(), &[] as &[&str]))
        .collect();
    let mut wide = dag("wide", &tasks);
    for (number, task) in wide.tasks.iter_mut().enumerate() {
        task.priority = 5;
        if number < 10 {
            task.pool = "narrow".to_owned();
            task.slots = if number % 3 == 0 { 2 } else { 1 };
        }
    }
    publish(&store, &wide).await;
    sql(
        &store,
        "update pool set slots = 3 where pool = 'narrow'".to_owned(),
    )
    .await;
    trigger(&store, &wide).await;
    let workers = [register(&store, "one").await, register(&store, "two").await];
    for worker in workers {
        store
            .renew(worker, Duration::from_secs(600), &[])
            .await
            .unwrap();
    }
    let mut finished = 0;
    let mut others = 0;
    while finished < 12 {
        let (one, two) = tokio::join!(claim(&store, workers[0], 4), claim(&store, workers[1], 4));
        let held: Vec<Claimed> = one.into_iter().chain(two).collect();
        let used: u32 = held
            .iter()
            .filter(|one| one.task().pool == "narrow")
            .map(|one| one.task().slots)
            .sum();
        assert!(used <= 3, "{used} slots of 3");
        others += held
            .iter()
            .filter(|one| one.task().pool == "default")
            .count();
        assert!(
            finished > 0 || others > 0,
            "the full pool does not keep the default pool from running"
        );
        assert!(!held.is_empty());
        finished += held.len();
        let batch: Vec<Ended> = held.into_iter().map(|one| ended(one, success())).collect();
        store.settle(&batch).await.unwrap();
        check_invariants(&store).await;
    }
}

#[tokio::test]
async fn a_paused_dag_starts_no_run() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    store
        .set_paused(&single.id, Paused::Paused, "ada")
        .await
        .unwrap();
    let run = trigger(&store, &single).await;
    assert_eq!(run_state(&store, run).await, RunState::Queued);
    store
        .set_paused(&single.id, Paused::Active, "ada")
        .await
        .unwrap();
    assert_eq!(run_state(&store, run).await, RunState::Running);
    let unknown = store
        .set_paused(&DagId::new("singel").unwrap(), Paused::Paused, "ada")
        .await
        .unwrap_err();
    assert_eq!(unknown.hint().as_deref(), Some("did you mean `single`?"));
}

#[tokio::test]
async fn publishing_is_idempotent_and_an_edited_schedule_never_fires_for_the_past() {
    let (store, _) = fresh_store().await;
    let hourly = |expression: &str| {
        let mut dag = dag("hourly", &[("a", &[])]);
        dag.schedule =
            Some(crate::model::Schedule::parse_cron(expression, chrono_tz::Tz::UTC).unwrap());
        dag
    };
    store
        .begin_watch(Duration::from_secs(60), TimeDelta::zero())
        .await
        .unwrap();
    let Published::NewVersion(first) = store
        .publish("hourly.toml", "one", &hourly("0 * * * *"))
        .await
        .unwrap()
    else {
        panic!("the first version is new");
    };
    let again = store
        .publish("hourly.toml", "one", &hourly("0 * * * *"))
        .await
        .unwrap();
    assert_eq!(again, Published::Unchanged(first));
    let shift = TimeDelta::hours(3);
    store.schedule_due(shift).await.unwrap();
    let runs = number(&store, "select count(*) from run").await;
    assert_eq!(runs, 3);
    let later = store
        .publish_all(
            &[ToPublish {
                file: "hourly.toml",
                source: "two",
                dag: &Arc::new(hourly("30 * * * *")),
            }],
            shift,
        )
        .await
        .unwrap()[0];
    assert!(matches!(later, Published::NewVersion(version) if version != first));
    store.schedule_due(shift).await.unwrap();
    assert_eq!(
        number(&store, "select count(*) from run").await,
        runs,
        "the edit fires for nothing"
    );
    let dag = store
        .dag(&DagId::new("hourly").unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(dag.schedule.as_deref(), Some("30 * * * *"));
    assert!(dag.next_fire_at.unwrap() > chrono::Utc::now() + shift);
    store
        .schedule_due(shift + TimeDelta::hours(2))
        .await
        .unwrap();
    assert_eq!(number(&store, "select count(*) from run").await, runs + 2);
}

#[tokio::test]
async fn a_logical_date_is_run_once() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let run = NewRun {
        dag_id: single.id.clone(),
        kind: crate::model::RunKind::Manual,
        logical_date: Some("2026-01-01T00:00:00Z".parse().unwrap()),
        params: crate::model::Params::new(),
        triggered_by: "ada".to_owned(),
    };
    let first = store.trigger(run.clone()).await.unwrap();
    assert!(
        matches!(store.trigger(run).await, Err(Error::RunExists { run_id }) if run_id == first)
    );
}

#[tokio::test]
async fn durable_state_moves_only_under_the_fence_and_only_once() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    trigger(&store, &single).await;
    let worker = register(&store, "one").await;
    let claimed = claim(&store, worker, 1).await.pop().unwrap();
    let durable = Fenced::new(store.clone(), &claimed.execution);
    assert_eq!(
        durable.freeze("plan", json!({ "end": 5 })).await.unwrap(),
        json!({ "end": 5 })
    );
    assert_eq!(
        durable.freeze("plan", json!({ "end": 9 })).await.unwrap(),
        json!({ "end": 5 })
    );
    let step = |from, to| {
        [
            CursorMove {
                partition: 0,
                from,
                to,
            },
            CursorMove {
                partition: 1,
                from,
                to,
            },
        ]
    };
    durable
        .advance("pins", "plan 1", &step(0, 5))
        .await
        .unwrap();
    durable
        .advance("pins", "plan 1", &step(0, 5))
        .await
        .unwrap();
    durable
        .advance("pins", "plan 2", &step(5, 7))
        .await
        .unwrap();
    durable
        .advance("pins", "plan 1", &step(0, 5))
        .await
        .unwrap();
    let moved = durable.advance("pins", "plan 3", &step(5, 9)).await;
    assert!(
        matches!(
            moved,
            Err(DurableError::CursorMoved {
                found: 7,
                expected: 5,
                ..
            })
        ),
        "{moved:?}"
    );
    assert_eq!(durable.cursor("pins").await.unwrap()[&1].next, 7);
    store.settle(&[ended(claimed, success())]).await.unwrap();
    assert!(matches!(
        durable.freeze("more", json!(1)).await,
        Err(DurableError::Fenced)
    ));
    assert!(matches!(
        durable.advance("pins", "plan 4", &step(7, 8)).await,
        Err(DurableError::Fenced)
    ));
}

#[tokio::test]
async fn a_result_that_holds_a_nul_is_stored_all_the_same() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    trigger(&store, &single).await;
    let worker = register(&store, "one").await;
    let claimed = claim(&store, worker, 1).await.pop().unwrap();
    let instance = claimed.execution.instance_id;
    let output = json!({ "text": "a\u{0}b" });
    store
        .settle(&[ended(claimed, Ending::Success { output })])
        .await
        .unwrap();
    assert_eq!(
        store.output(instance).await.unwrap(),
        Some(json!({ "text": "a\u{fffd}b" }))
    );
}

#[tokio::test]
async fn rust_and_sql_agree_on_every_transition() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let run = trigger(&store, &single).await;
    let is_clear = |by| {
        use crate::model::state::By;
        matches!(by, By::Clear | By::Mark)
    };
    for from in TaskState::ALL {
        for to in TaskState::ALL {
            for clearing in [false, true] {
                let legal = from == to
                    || crate::model::state::TASK_TRANSITIONS
                        .iter()
                        .any(|(one, other, by)| {
                            (one, other) == (from, to) && (clearing || !is_clear(*by))
                        });
                let done = move_task(&store, run, from.as_str(), to.as_str(), clearing).await;
                assert_eq!(done, legal, "task {from:?} to {to:?}, clearing: {clearing}");
            }
        }
    }
    for from in RunState::ALL {
        for to in RunState::ALL {
            for clearing in [false, true] {
                let legal = from == to
                    || crate::model::state::RUN_TRANSITIONS
                        .iter()
                        .any(|(one, other, by)| {
                            (one, other) == (from, to) && (clearing || !is_clear(*by))
                        });
                let done = move_run(&store, run, from.as_str(), to.as_str(), clearing).await;
                assert_eq!(done, legal, "run {from:?} to {to:?}, clearing: {clearing}");
            }
        }
    }
}

async fn move_task(store: &Store, run: RunId, from: &str, to: &str, clearing: bool) -> bool {
    let set = |state: &str| {
        format!(
            "update task_instance set state = '{state}', \
             worker_id = case when '{state}' = 'running' then 1 end, \
             sleep_reason = case when '{state}' = 'sleeping' then 'retry'::sleep_reason end, \
             finished_at = case when '{state}' in ('success', 'failed', 'skipped', 'upstream_failed', 'cancelled') \
                then now() end where run_id = {run};"
        )
    };
    is_allowed(store, "task_instance", &set(from), &set(to), clearing).await
}

async fn move_run(store: &Store, run: RunId, from: &str, to: &str, clearing: bool) -> bool {
    let set = |state: &str| {
        format!(
            "update run set state = '{state}', started_at = case when '{state}' <> 'queued' then now() end, \
             finished_at = case when '{state}' in ('success', 'failed', 'cancelled') then now() end \
             where run_id = {run};"
        )
    };
    is_allowed(store, "run", &set(from), &set(to), clearing).await
}

async fn is_allowed(store: &Store, table: &str, first: &str, then: &str, clearing: bool) -> bool {
    let clearing = if clearing { "on" } else { "off" };
    let script = format!(
        "begin; alter table {table} disable trigger user; {first} alter table {table} enable trigger user; \
         select set_config('pinwheel.clearing', '{clearing}', true); {then} rollback;"
    );
    let mut connection = store.people.acquire().await.unwrap();
    let result = sqlx::raw_sql(AssertSqlSafe(script))
        .execute(&mut *connection)
        .await;
    if let Err(error) = &result {
        let refusal = error.as_database_error().unwrap();
        assert_eq!(
            refusal.constraint(),
            Some(format!("{table}_transition").as_str()),
            "{error}"
        );
        sqlx::raw_sql("rollback")
            .execute(&mut *connection)
            .await
            .unwrap();
    }
    result.is_ok()
}
