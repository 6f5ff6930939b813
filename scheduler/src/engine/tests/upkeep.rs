//! Checks, repairs and retention beside engines that are at work.

use tokio::sync::Semaphore;

use super::*;
use crate::store::{Keep, Retention, RunFilter, tests::mend_open_runs};

/// A DAG with retries, a sleep, skips and a fan-in, so that every table is written to.
fn busy_dag() -> crate::model::Dag {
    let mut busy = dag(
        "busy",
        &[
            ("a", &[]),
            ("b", &["a"]),
            ("c", &["a"]),
            ("d", &["b", "c"]),
            ("e", &["d"]),
        ],
    );
    busy.max_active_runs = 8;
    for task in &mut busy.tasks {
        task.retries = 1;
        task.retry_delay = Duration::ZERO;
        task.slots = 1;
    }
    busy.tasks[2].pool = "narrow".to_owned();
    busy
}

/// Every third try of a task fails, and the task `c` sleeps once. Each execution takes a permit of the gate.
fn busy_kinds(count: Arc<AtomicUsize>, gate: Arc<Semaphore>) -> Registry {
    kinds(move |context: Context, _| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.expect("it is open").forget();
            if context.instance.task_id == "c" && context.resume.is_none() {
                return Ok(Outcome::Sleep {
                    wake_after: Duration::ZERO,
                    reason: "once".to_owned(),
                    resume: json!({}),
                });
            }
            if number.is_multiple_of(3) && context.instance.try_number == 1 {
                return Err(Failure::retryable("every third"));
            }
            Ok(Outcome::success())
        }
    })
}

#[tokio::test]
async fn a_check_beside_busy_engines_finds_nothing_and_a_repair_repairs_nothing() {
    let (store, url) = fresh_store().await;
    let busy = busy_dag();
    publish(&store, &busy).await;
    limit_pool(&store, "narrow", 3).await;
    let runs = 300;
    for _ in 0..runs {
        trigger(&store, &busy).await;
    }
    let other_store = Store::connect(&url).await.unwrap();
    let looking = Store::connect(&url).await.unwrap();
    let executed = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Semaphore::new(0));
    let registry = busy_kinds(Arc::clone(&executed), Arc::clone(&gate));
    let engines = [
        start(&store, registry.clone()).await,
        start(&other_store, registry).await,
    ];
    let mut beside = 0;
    for look in 0..2_000 {
        // Too few for all runs before the tenth look, so that the engines are at work beside it.
        gate.add_permits(100);
        let begun = executed.load(Ordering::SeqCst);
        let open = looking.check().await.unwrap();
        assert_eq!(open.findings, [], "look {look}");
        if open.open_runs == 0 {
            break;
        }
        beside += usize::from(begun > 0);
        // All that it may find to do is to start a run that was passed over because it was being looked at.
        mend_open_runs(&looking).await;
    }
    assert!(
        beside > 5,
        "looks were taken while the engines worked: {beside}"
    );
    let all = store
        .runs(&RunFilter {
            limit: 500,
            ..RunFilter::default()
        })
        .await
        .unwrap();
    assert_eq!(all.len() as i64, runs);
    let mut recorded = 0;
    for run in all {
        assert_eq!(run.state, RunState::Success);
        for row in store.instances(run.run_id).await.unwrap() {
            recorded += store.tries(row.instance_id).await.unwrap().len();
        }
    }
    assert_eq!(
        recorded,
        executed.load(Ordering::SeqCst),
        "every execution was recorded, and nothing was taken from a worker that lives"
    );
    for engine in engines {
        finish(engine).await;
    }
}

#[tokio::test]
async fn a_scheduler_removes_what_is_old_when_its_clock_says_so() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let clock = Arc::new(ShiftedClock::default());
    let keeping_one = Options {
        retention: Retention {
            runs: Keep::For(Duration::from_secs(90 * 24 * 60 * 60)),
            keep: 1,
        },
        ..options("test")
    };
    let engine = start_with(&store, noop(), Roles::Both, keeping_one, clock.clone()).await;
    let mut changes = engine.changes();
    let mut last = crate::model::RunId(0);
    for _ in 0..3 {
        last = trigger(&store, &single).await;
        engine.bell().ring();
        assert_eq!(
            run_end(&store, engine.changes(), last).await,
            RunState::Success
        );
    }
    clock.advance(TimeDelta::days(91));
    let left = loop {
        let left = store
            .runs(&RunFilter {
                limit: 500,
                ..RunFilter::default()
            })
            .await
            .unwrap();
        if left.len() < 3 {
            break left;
        }
        let _changed = tokio::time::timeout(Duration::from_millis(500), changes.next()).await;
    };
    assert_eq!(
        left.iter().map(|run| run.run_id).collect::<Vec<_>>(),
        [last],
        "the last one stays"
    );
    let removed: f64 = metrics_of("pinwheel_retention_removed_rows_total");
    assert!(removed >= 6.0, "{removed}");
    finish(engine).await;
}

fn metrics_of(name: &str) -> f64 {
    crate::metrics::gather()
        .iter()
        .filter(|family| family.name() == name)
        .flat_map(|family| family.get_metric().to_vec())
        .map(|metric| metric.get_counter().get_value())
        .sum()
}
