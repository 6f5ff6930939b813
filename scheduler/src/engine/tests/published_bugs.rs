//! Bugs of other schedulers that were published, and why they cannot happen here: those that take a running engine. The
//! others are in the store's tests.

use super::*;
use crate::{
    model::{Catchup, DagId, Schedule},
    store::{RunFilter, RunRow, tests::witness::Outage},
};

/// Chronos #508: Jepsen found jobs that were not started at their time, before any fault. Its oracle: every target has one
/// run that starts and ends. Here the target of a tick is a row in the database, and nobody has to be there when it comes.
#[tokio::test]
async fn every_tick_has_one_run_that_ends_whoever_was_away_when_it_came() {
    let (store, url) = fresh_store().await;
    let mut hourly = dag("hourly", &[("a", &[]), ("b", &["a"])]);
    hourly.schedule = Some(Schedule::parse_cron("0 * * * *", chrono_tz::Tz::UTC).unwrap());
    hourly.catchup = Catchup::All;
    let clock = Arc::new(ShiftedClock::default());
    publish(&store, &hourly).await;
    let mut targets = 0;
    for life in 1..=3 {
        let own = Store::connect(&url).await.unwrap();
        let engine = start_with(
            &own,
            noop(),
            Roles::Both,
            options("one of them"),
            clock.clone(),
        )
        .await;
        for _ in 0..3 {
            targets += 1;
            clock.advance(TimeDelta::hours(1));
            wait_for(&store, &hourly.id, engine.changes(), targets).await;
        }
        finish(engine).await;
        // Nobody is there for two ticks; the next one makes up for them.
        clock.advance(TimeDelta::hours(2));
        targets += 2;
        let met = runs(&store, &hourly.id).await.len();
        assert_eq!(met, targets - 2, "life {life}");
    }
    let own = Store::connect(&url).await.unwrap();
    let engine = start_with(
        &own,
        noop(),
        Roles::Both,
        options("the last"),
        clock.clone(),
    )
    .await;
    wait_for(&store, &hourly.id, engine.changes(), targets).await;
    let intervals: Vec<_> = runs(&store, &hourly.id)
        .await
        .into_iter()
        .map(|run| (run.data_interval_start, run.data_interval_end))
        .collect();
    assert!(
        intervals.windows(2).all(|pair| pair[0].1 == pair[1].0),
        "one after the other: {intervals:?}"
    );
    finish(engine).await;
}

/// Airflow #23520 and #39088: a scheduler that was started again took what was running for its own dead past, and started
/// a second copy. Here what runs belongs to a lease, and a scheduler has nothing to do with it.
#[tokio::test]
async fn a_scheduler_that_is_started_again_starts_no_second_copy_of_what_runs() {
    let (store, url) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let go_on = Arc::new(Semaphore::new(0));
    let registry = kinds({
        let go_on = Arc::clone(&go_on);
        move |_, _| {
            tell.send(()).unwrap();
            let go_on = Arc::clone(&go_on);
            async move {
                go_on.acquire().await.unwrap().forget();
                Ok(Outcome::success())
            }
        }
    });
    let clock = || Arc::new(SystemClock::new());
    let worker = start_with(
        &store,
        registry.clone(),
        Roles::Worker,
        options("worker"),
        clock(),
    )
    .await;
    let run = trigger(&store, &single).await;
    bell::ring(&store).await.unwrap();
    told.recv().await.unwrap();
    for _ in 0..3 {
        let own = Store::connect(&url).await.unwrap();
        let again = start_with(
            &own,
            registry.clone(),
            Roles::Both,
            options("scheduler"),
            clock(),
        )
        .await;
        own.reap().await.unwrap();
        finish(again).await;
    }
    let row = &store.instances(run).await.unwrap()[0];
    assert_eq!((row.state, row.tries), (TaskState::Running, 1));
    go_on.add_permits(10);
    assert_eq!(
        run_end(&store, worker.changes(), run).await,
        RunState::Success
    );
    assert!(told.try_recv().is_err(), "it was started once");
    finish(worker).await;
}

/// River #1184: a maintainer whose start failed was given no second chance, and nothing was maintained any more. Here a pass
/// that fails is made again.
#[tokio::test]
async fn a_scheduler_whose_first_pass_fails_tries_again() {
    let (store, url) = fresh_store().await;
    let mut hourly = dag("hourly", &[("a", &[])]);
    hourly.schedule = Some(Schedule::parse_cron("0 * * * *", chrono_tz::Tz::UTC).unwrap());
    publish(&store, &hourly).await;
    let outage = Outage::of(&url).await;
    let clock = Arc::new(ShiftedClock::default());
    let engine = start_with(
        &store,
        noop(),
        Roles::Both,
        options("unlucky"),
        clock.clone(),
    )
    .await;
    outage.end_after(3).await;
    clock.advance(TimeDelta::hours(1));
    wait_for(&store, &hourly.id, engine.changes(), 1).await;
    finish(engine).await;
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
    runs.sort_by_key(|run| run.logical_date);
    runs
}

/// Waits until so many runs have succeeded; there are never more.
async fn wait_for(store: &Store, dag_id: &DagId, mut changes: Changes, count: usize) {
    let all = async {
        loop {
            let runs = runs(store, dag_id).await;
            assert!(runs.len() <= count, "a tick is run once");
            if runs.len() == count && runs.iter().all(|run| run.state == RunState::Success) {
                return;
            }
            let _changed = tokio::time::timeout(Duration::from_millis(500), changes.next()).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .expect("the runs end within a minute");
}
