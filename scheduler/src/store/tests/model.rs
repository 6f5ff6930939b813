//! The store against a model of it: random DAGs, and everything that people, workers and schedulers may do to their runs.
//!
//! Played one step after the other, the store holds after every step exactly what the model says. Played at the same time,
//! whatever came of it must hold: counters equal a recount, nobody runs what somebody else runs, nothing deadlocks. Either
//! way every run ends, and as the pure model says.

mod backfills;
mod play;
mod recount;
mod story;
mod together;
mod world;

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};

use super::{limit_pool, sql};
use crate::{
    store::Store,
    testing::{dag, fresh_store, publish},
};
use story::{NARROW, NARROW_SLOTS, Story};

#[test]
fn whatever_happens_the_store_holds_what_the_model_says() {
    check(25, 300, &story::story(), play::play);
}

#[test]
fn whatever_happens_at_the_same_time_the_runs_end_as_the_model_says() {
    check(16, 60, &together::story(), together::play);
}

#[test]
fn whatever_happens_at_the_same_time_each_logical_date_has_one_run() {
    check(12, 60, &backfills::story(), backfills::play);
}

/// Plays random stories in one database, each from and to an empty one. `PROPTEST_CASES` says how many.
fn check<Step: std::fmt::Debug>(
    cases: u32,
    max_shrink_iters: u32,
    stories: &impl Strategy<Value = Story<Step>>,
    play: impl AsyncFn(&Store, &Story<Step>, &str),
) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (store, _) = runtime.block_on(fresh_store());
    runtime.block_on(make_narrow_pool(&store));
    let asked = std::env::var("PROPTEST_CASES").ok();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: asked.map_or(cases, |asked| asked.parse().unwrap()),
        max_shrink_iters,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let count = Cell::new(0);
    runner
        .run(stories, |story| {
            count.set(count.get() + 1);
            let id = format!("story_{}", count.get());
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                runtime.block_on(async {
                    play(&store, &story, &id).await;
                    assert_drained(&store).await;
                });
            }));
            // What a failed story leaves behind would fail the next one as well.
            runtime.block_on(sql(&store, CLEAN.to_owned()));
            outcome.map_err(|panic| {
                let message = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                TestCaseError::fail(message.unwrap_or_else(|| "it panicked".to_owned()))
            })
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

const CLEAN: &str = "update dag set open_backfill = null, present = false, next_fire_at = null; truncate backfill cascade; \
    truncate run, task_instance, ready, sleeper, pool_use, gate, gate_use, parked, resume, try, output cascade; \
    update worker set ended_at = now() where ended_at is null;";

async fn make_narrow_pool(store: &Store) {
    let mut narrow = dag("narrow", &[("a", &[])]);
    narrow.tasks[0].pool = NARROW.to_owned();
    publish(store, &narrow).await;
    limit_pool(store, NARROW, NARROW_SLOTS).await;
}

/// Nothing is left to be claimed, woken or given back when every run is final.
async fn assert_drained(store: &Store) {
    let left: Vec<String> = sqlx::query_scalar(
        "select 'ready' from ready union all select 'sleeper' from sleeper union all select 'pool_use' from pool_use
         union all select 'resume' from resume union all select 'gate_use' from gate_use union all select 'parked' from parked",
    )
    .fetch_all(&store.people)
    .await
    .unwrap();
    assert!(left.is_empty(), "left over: {left:?}");
}
