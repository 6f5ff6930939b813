//! Pools that people make, size and delete while tasks run.

use super::*;
use crate::{
    model::{Dag, PoolName},
    testing::run_end,
};

fn name(text: &str) -> PoolName {
    PoolName::new(text).unwrap()
}

fn slots(slots: i64) -> PoolChange {
    PoolChange {
        size: PoolSize::limit(slots).unwrap(),
        description: None,
    }
}

fn unlimited() -> PoolChange {
    PoolChange {
        size: PoolSize::Unlimited,
        description: None,
    }
}

async fn set(store: &Store, pool: &str, change: PoolChange) -> PoolSet {
    store.set_pool(&name(pool), &change, "ada").await.unwrap()
}

async fn pool(store: &Store, pool: &str) -> PoolRow {
    store.pool(&name(pool)).await.unwrap()
}

async fn names(store: &Store) -> Vec<String> {
    let pools = store.pools().await.unwrap();
    pools.into_iter().map(|row| row.pool.to_string()).collect()
}

/// A DAG of independent tasks in one pool, each taking so many slots.
fn wide(id: &str, pool: &str, slots: &[u32]) -> Dag {
    let names: Vec<String> = (0..slots.len())
        .map(|number| format!("task_{number}"))
        .collect();
    let tasks: Vec<(&str, &[&str])> = names
        .iter()
        .map(|name| (name.as_str(), &[] as &[&str]))
        .collect();
    let mut wide = dag(id, &tasks);
    for (task, slots) in wide.tasks.iter_mut().zip(slots) {
        task.pool = pool.to_owned();
        task.slots = *slots;
    }
    wide
}

async fn settle(store: &Store, claimed: Vec<Claimed>) {
    let batch: Vec<Ended> = claimed
        .into_iter()
        .map(|one| ended(one, success()))
        .collect();
    store.settle(&batch).await.unwrap();
}

/// Waits until a statement waits for a lock on a table.
async fn somebody_waits_for(store: &Store, table: &'static str) {
    let waits = async { while !waits_for(store, table).await {} };
    tokio::time::timeout(Duration::from_secs(30), waits)
        .await
        .expect("somebody waits");
}

async fn waits_for(store: &Store, table: &'static str) -> bool {
    let waiting: i64 = sqlx::query_scalar(
        "select count(*) from pg_locks where relation = $1::regclass and not granted
            and database = (select oid from pg_database where datname = current_database())",
    )
    .bind(table)
    .fetch_one(&store.people)
    .await
    .unwrap();
    waiting > 0
}

#[tokio::test]
async fn a_pool_is_made_and_changed_and_each_change_is_noted() {
    let (store, _) = fresh_store().await;
    let gpu = PoolChange {
        description: PoolDescription::new(" The two cards "),
        ..slots(2)
    };
    assert_eq!(set(&store, "gpu", gpu).await, PoolSet::Created);
    assert_eq!(set(&store, "gpu", slots(3)).await, PoolSet::Changed);
    let row = pool(&store, "gpu").await;
    assert_eq!(row.slots, Some(3));
    assert_eq!(row.description, "The two cards", "what is not given stays");
    assert_eq!(set(&store, "gpu", unlimited()).await, PoolSet::Changed);
    assert_eq!(pool(&store, "gpu").await.slots, None);
    let notes = number(
        &store,
        "select count(*) from audit where actor = 'ada' and dag_id is null and detail ->> 'pool' = 'gpu'
            and action in ('create pool', 'change pool')",
    )
    .await;
    assert_eq!(notes, 3);
}

#[test]
fn a_size_is_a_number_that_postgres_can_hold_and_not_zero() {
    for wrong in [0, -1, i64::from(i32::MAX) + 1, i64::MIN, i64::MAX] {
        assert_eq!(PoolSize::limit(wrong), None, "{wrong}");
    }
    for right in [1, i64::from(i32::MAX)] {
        let slots = PoolSize::limit(right).and_then(PoolSize::slots);
        assert_eq!(slots.map(i64::from), Some(right));
    }
}

#[test]
fn a_description_is_one_line_of_a_bounded_length() {
    let longest = "é".repeat(PoolDescription::LONGEST);
    assert!(PoolDescription::new(&longest).is_some());
    for wrong in [format!("{longest}é"), "a\nb".to_owned(), "a\0b".to_owned()] {
        assert_eq!(PoolDescription::new(&wrong), None, "{wrong:?}");
    }
}

#[tokio::test]
async fn a_pool_shows_what_it_holds_and_what_waits_for_it() {
    let (store, _) = fresh_store().await;
    let in_gpu = wide("in_gpu", "gpu", &[2, 1, 1]);
    publish(&store, &in_gpu).await;
    let row = pool(&store, "gpu").await;
    assert_eq!(
        (row.slots, row.tasks, row.dags),
        (None, 3, vec![in_gpu.id.clone()]),
        "a pool that a file names for the first time has no limit"
    );
    set(&store, "gpu", slots(3)).await;
    trigger(&store, &in_gpu).await;
    let worker = register(&store, "one").await;
    let claimed = claim(&store, worker, 8).await;
    assert_eq!(claimed.len(), 2, "one takes 2 slots, one takes 1");
    let row = pool(&store, "gpu").await;
    assert_eq!((row.used, row.running, row.ready), (3, 2, 1));
    set(&store, "gpu", unlimited()).await;
    let row = pool(&store, "gpu").await;
    assert_eq!((row.used, row.running, row.ready), (3, 2, 1));
    settle(&store, claimed).await;
    settle(&store, claim(&store, worker, 8).await).await;
    let row = pool(&store, "gpu").await;
    assert_eq!((row.used, row.running, row.ready), (0, 0, 0));
}

#[tokio::test]
async fn a_pool_made_smaller_lets_its_tasks_end_and_takes_no_more_until_there_is_room() {
    let (store, _) = fresh_store().await;
    let narrow = wide("narrow", "narrow", &[1, 1, 1, 1, 1]);
    publish(&store, &narrow).await;
    set(&store, "narrow", slots(4)).await;
    let run = trigger(&store, &narrow).await;
    let worker = register(&store, "one").await;
    let mut claimed = claim(&store, worker, 8).await;
    assert_eq!(claimed.len(), 4);
    set(&store, "narrow", slots(2)).await;
    let row = pool(&store, "narrow").await;
    assert_eq!((row.slots, row.used, row.running), (Some(2), 4, 4));
    for left in [3, 2] {
        assert!(claim(&store, worker, 8).await.is_empty());
        settle(&store, vec![claimed.pop().unwrap()]).await;
        assert_eq!(pool(&store, "narrow").await.used, left);
    }
    assert!(claim(&store, worker, 8).await.is_empty(), "2 of 2 are used");
    settle(&store, vec![claimed.pop().unwrap()]).await;
    claimed.extend(claim(&store, worker, 8).await);
    assert_eq!(claimed.len(), 2, "the last one has found room");
    check_invariants(&store).await;
    settle(&store, claimed).await;
    assert_eq!(run_state(&store, run).await, RunState::Success);
}

#[tokio::test]
async fn a_limit_counts_the_tasks_that_run_already() {
    let (store, _) = fresh_store().await;
    let busy = wide("busy", "busy", &[1, 1, 1, 1, 1, 1]);
    publish(&store, &busy).await;
    trigger(&store, &busy).await;
    let worker = register(&store, "one").await;
    let mut claimed = claim(&store, worker, 4).await;
    assert_eq!(claimed.len(), 4, "without a limit");
    set(&store, "busy", slots(4)).await;
    assert_eq!(pool(&store, "busy").await.used, 4);
    assert!(claim(&store, worker, 8).await.is_empty());
    check_invariants(&store).await;
    settle(&store, vec![claimed.pop().unwrap()]).await;
    let next = claim(&store, worker, 8).await;
    assert_eq!(next.len(), 1, "for the one that ended");
    settle(&store, claimed).await;
    settle(&store, next).await;
    settle(&store, claim(&store, worker, 8).await).await;
    assert_eq!(pool(&store, "busy").await.used, 0);
    check_invariants(&store).await;
}

#[tokio::test]
async fn a_limit_counts_what_another_process_is_just_claiming() {
    let (store, _) = fresh_store().await;
    let busy = wide("busy", "busy", &[1, 1, 1]);
    publish(&store, &busy).await;
    trigger(&store, &busy).await;
    let worker = register(&store, "one").await;
    let queues = queues();
    let appetite = |slots| Appetite {
        worker_id: worker,
        queues: &queues,
        slots,
    };
    let mut transaction = store.engine.begin().await.unwrap();
    let claimed = store
        .claim_by(&mut transaction, appetite(2))
        .await
        .unwrap()
        .claimed;
    assert_eq!(
        claimed.len(),
        2,
        "claimed without a limit, not yet committed"
    );
    let setting = {
        let store = store.clone();
        tokio::spawn(async move { set(&store, "busy", slots(2)).await })
    };
    somebody_waits_for(&store, "pool_use").await;
    transaction.commit().await.unwrap();
    setting.await.unwrap();
    assert_eq!(pool(&store, "busy").await.used, 2, "both are counted");
    assert!(store.claim(appetite(1)).await.unwrap().claimed.is_empty());
    check_invariants(&store).await;
    settle(&store, claimed).await;
}

#[tokio::test]
async fn a_claim_that_has_to_wait_for_a_limit_obeys_it() {
    let (store, url) = fresh_store().await;
    let busy = wide("busy", "busy", &[1, 1, 1]);
    publish(&store, &busy).await;
    trigger(&store, &busy).await;
    // Another process: it has never heard of a limit.
    let elsewhere = Store::connect(&url).await.unwrap();
    let worker = register(&elsewhere, "one").await;
    let mut transaction = store.engine.begin().await.unwrap();
    sqlx::raw_sql(
        "update pool set slots = 1 where pool = 'busy'; lock table pool_use in share row exclusive mode",
    )
    .execute(&mut *transaction)
    .await
    .unwrap();
    let claiming = {
        let elsewhere = elsewhere.clone();
        tokio::spawn(async move { claim(&elsewhere, worker, 8).await })
    };
    somebody_waits_for(&store, "pool_use").await;
    transaction.commit().await.unwrap();
    assert!(
        claiming.await.unwrap().is_empty(),
        "it took its snapshot after the wait, and leaves alone what it has not locked"
    );
    elsewhere
        .renew(worker, Duration::from_secs(600), &[])
        .await
        .unwrap();
    let claimed = claim(&elsewhere, worker, 8).await;
    assert_eq!(claimed.len(), 1, "the heartbeat told it of the limit");
    settle(&elsewhere, claimed).await;
}

#[tokio::test]
async fn a_task_that_takes_more_slots_than_the_pool_has_takes_all_of_it_at_every_size() {
    let (store, _) = fresh_store().await;
    let heavy = wide("heavy", "heavy", &[5, 1]);
    publish(&store, &heavy).await;
    trigger(&store, &heavy).await;
    let worker = register(&store, "one").await;
    let claimed = claim(&store, worker, 1).await;
    assert_eq!(claimed[0].task().slots, 5);
    for (size, used) in [(3, 3), (5, 5), (6, 5), (2, 2), (8, 5)] {
        set(&store, "heavy", slots(size)).await;
        assert_eq!(pool(&store, "heavy").await.used, used, "of {size}");
    }
    set(&store, "heavy", slots(5)).await;
    assert!(claim(&store, worker, 8).await.is_empty());
    set(&store, "heavy", slots(6)).await;
    let light = claim(&store, worker, 8).await;
    assert_eq!(light.len(), 1, "a pool made larger has room at once");
    settle(&store, claimed).await;
    settle(&store, light).await;
}

#[tokio::test]
async fn a_resize_never_waits_for_a_worker_that_is_ending_a_task() {
    let (store, _) = fresh_store().await;
    let narrow = wide("narrow", "narrow", &[2, 2]);
    publish(&store, &narrow).await;
    set(&store, "narrow", slots(4)).await;
    trigger(&store, &narrow).await;
    let worker = register(&store, "one").await;
    let mut claimed = claim(&store, worker, 8).await;
    assert_eq!(claimed.len(), 2);
    let mut transaction = store.engine.begin().await.unwrap();
    let batch = [ended(claimed.pop().unwrap(), success())];
    let mut step = settle::Step::default();
    store
        .settle_by(&mut transaction, &batch, Appetite::NONE, &mut step)
        .await
        .unwrap();
    // With a lock order turned round the two would wait for each other: the worker goes on to claim.
    set(&store, "narrow", slots(1)).await;
    let queues = queues();
    let appetite = Appetite {
        worker_id: worker,
        queues: &queues,
        slots: 4,
    };
    let next = store.claim_by(&mut transaction, appetite).await.unwrap();
    assert!(next.claimed.is_empty());
    transaction.commit().await.unwrap();
    assert_eq!(
        pool(&store, "narrow").await.used,
        1,
        "what is left takes all of it"
    );
    check_invariants(&store).await;
    settle(&store, claimed).await;
    check_invariants(&store).await;
}

#[tokio::test]
async fn a_limit_that_comes_and_goes_under_load_is_never_exceeded() {
    let (store, url) = fresh_store().await;
    let many = wide("many", "many", &[1; 60]);
    publish(&store, &many).await;
    let run = trigger(&store, &many).await;
    let elsewhere = Store::connect(&url).await.unwrap();
    let work = |store: Store, name: &'static str| async move {
        let worker = register(&store, name).await;
        loop {
            store
                .renew(worker, Duration::from_secs(600), &[])
                .await
                .unwrap();
            let claimed = claim(&store, worker, 2).await;
            check_invariants(&store).await;
            settle(&store, claimed).await;
            if run_state(&store, run).await.is_final() {
                return;
            }
        }
    };
    let steer = async {
        loop {
            for change in [slots(3), slots(1), unlimited(), slots(2), unlimited()] {
                set(&store, "many", change).await;
            }
            if run_state(&store, run).await.is_final() {
                return;
            }
        }
    };
    let watch = async {
        loop {
            // Within one snapshot: of a pool with a limit, every running task is counted.
            let uncounted = number(
                &store,
                "select count(*) from task_instance i left join pool_use u using (instance_id)
                where i.state = 'running' and u.pool is null
                    and (select slots from pool where pool = 'many') is not null",
            )
            .await;
            assert_eq!(uncounted, 0);
            if run_state(&store, run).await.is_final() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), async {
        tokio::join!(
            work(store.clone(), "one"),
            work(elsewhere, "two"),
            steer,
            watch
        )
    })
    .await
    .expect("nobody waits for ever");
    assert_eq!(run_state(&store, run).await, RunState::Success);
    check_invariants(&store).await;
}

#[tokio::test]
async fn only_a_pool_that_nothing_needs_is_deleted() {
    let (store, _) = fresh_store().await;
    let mut pair = wide("pair", "gpu", &[1, 1]);
    publish(&store, &pair).await;
    set(&store, "gpu", slots(1)).await;

    let refused = store
        .delete_pool(&name("default"), "ada")
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::PoolIsDefault));
    let refused = store.delete_pool(&name("gpu"), "ada").await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the pool `gpu` cannot be deleted: 2 tasks name it (DAG `pair`)"
    );
    let refused = store.delete_pool(&name("gpo"), "ada").await.unwrap_err();
    assert_eq!(
        (refused.to_string(), refused.hint()),
        (
            "unknown pool `gpo`".to_owned(),
            Some("did you mean `gpu`?".to_owned())
        )
    );

    let run = trigger(&store, &pair).await;
    for task in &mut pair.tasks {
        task.pool = "default".to_owned();
    }
    publish(&store, &pair).await;
    let worker = register(&store, "one").await;
    let first = claim(&store, worker, 8).await;
    assert_eq!(first.len(), 1);
    let refused = store.delete_pool(&name("gpu"), "ada").await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the pool `gpu` cannot be deleted now: 1 task runs in it and 1 waits"
    );
    settle(&store, first).await;
    settle(&store, claim(&store, worker, 8).await).await;
    assert_eq!(run_state(&store, run).await, RunState::Success);
    store.delete_pool(&name("gpu"), "ada").await.unwrap();
    assert_eq!(names(&store).await, ["default"]);
    assert!(store.pool(&name("gpu")).await.is_err());
    let refused = store.delete_pool(&name("gpu"), "ada").await.unwrap_err();
    assert!(matches!(refused, Error::UnknownPool { .. }), "{refused}");
    assert_eq!(set(&store, "gpu", slots(7)).await, PoolSet::Created);
    assert_eq!(pool(&store, "gpu").await.slots, Some(7));
}

#[tokio::test]
async fn no_task_waits_for_a_pool_that_was_deleted() {
    let (store, _) = fresh_store().await;
    let before = wide("lone", "gpu", &[1]);
    let after = wide("lone", "default", &[1]);
    publish(&store, &before).await;
    set(&store, "gpu", slots(1)).await;
    let run = trigger(&store, &before).await;
    let worker = register(&store, "one").await;
    settle(&store, claim(&store, worker, 8).await).await;
    publish(&store, &after).await;
    store.delete_pool(&name("gpu"), "ada").await.unwrap();

    // A run of the older version runs again.
    let request = ClearRequest {
        run_id: run,
        selection: ClearSelection::WholeRun,
        scope: ClearScope::Only,
        version: crate::store::ClearVersion::Same,
        actor: "ada".to_owned(),
    };
    store.clear(request).await.unwrap();
    assert_eq!(names(&store).await, ["default", "gpu"], "it waits there");
    settle(&store, claim(&store, worker, 8).await).await;
    assert_eq!(run_state(&store, run).await, RunState::Success);
    assert_eq!(names(&store).await, ["default"]);

    // The file is what it was: its version is known already.
    publish(&store, &before).await;
    let row = pool(&store, "gpu").await;
    assert_eq!((row.slots, row.tasks), (None, 1));
    let run = trigger(&store, &before).await;
    settle(&store, claim(&store, worker, 8).await).await;
    assert_eq!(run_state(&store, run).await, RunState::Success);
}

#[tokio::test]
async fn an_idle_engine_obeys_the_first_limit_at_once_and_serves_the_pool() {
    use crate::engine::{Changes, Engine, Options, Roles, SystemClock, bell};
    let (store, url) = fresh_store().await;
    let lone = wide("lone", "gpu", &[1]);
    publish(&store, &lone).await;
    // Its next heartbeat by the clock would come in an hour.
    let options = Options {
        heartbeat: Duration::from_secs(3600),
        lease: Duration::from_secs(7200),
        ..Options::default()
    };
    let registry = crate::testing::kinds(|_, _| async { Ok(pinwheel_tasks::Outcome::success()) });
    let elsewhere = Store::connect(&url).await.unwrap();
    let clock = std::sync::Arc::new(SystemClock::new());
    let engine = Engine::start(elsewhere, registry, Roles::Both, options, clock)
        .await
        .unwrap();
    let changes = Changes::listen(&store).await.unwrap();
    set(&store, "gpu", slots(1)).await;
    let run = trigger(&store, &lone).await;
    bell::ring(&store).await.unwrap();
    assert_eq!(run_end(&store, changes, run).await, RunState::Success);
    engine.stop_now();
    engine.stop().await;
}
