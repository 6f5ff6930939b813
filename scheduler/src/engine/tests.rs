//! Engines in process, against a real Postgres. Gates and closures, never a sleep.

mod alerts;
mod datasets;
mod flow;
mod idle;
mod orchestrate;
mod published_bugs;
mod secrets;
mod upkeep;

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use pinwheel_tasks::{Context, Failure, Outcome, Registry};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::{
    model::{RunState, TaskState, TryOutcome},
    store::{
        ClearRequest, ClearScope, ClearSelection, LogPosition, WorkerScope, WorkerState,
        tests::{cut_connections, expire_workers, limit_pool},
    },
    testing::{self, change, dag, fresh_store, kinds, publish, run_end, states, trigger},
};

fn options(name: &str) -> Options {
    Options {
        name: name.to_owned(),
        slots: 8,
        heartbeat: Duration::from_millis(500),
        grace: Duration::from_millis(50),
        dag_poll: Duration::from_millis(50),
        ..Options::default()
    }
}

async fn start(store: &Store, registry: Registry) -> Engine {
    start_with(
        store,
        registry,
        Roles::Both,
        options("test"),
        Arc::new(SystemClock::new()),
    )
    .await
}

async fn start_with(
    store: &Store,
    registry: Registry,
    roles: Roles,
    options: Options,
    clock: Arc<dyn Clock>,
) -> Engine {
    Engine::start(store.clone(), registry, roles, options, clock)
        .await
        .unwrap()
}

fn noop() -> Registry {
    kinds(|_, _| async { Ok(Outcome::success()) })
}

/// Ends with the engine's stop, so that no test leaves anything running.
async fn finish(engine: Engine) {
    engine.stop_now();
    tokio::time::timeout(Duration::from_secs(30), engine.stop())
        .await
        .expect("the engine stops");
}

#[tokio::test]
async fn a_chain_runs_through() {
    let (store, _) = fresh_store().await;
    let chain = dag("chain", &[("a", &[]), ("b", &["a"]), ("c", &["b"])]);
    publish(&store, &chain).await;
    let engine = start(&store, noop()).await;
    let run = trigger(&store, &chain).await;
    engine.bell().ring();
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Success
    );
    finish(engine).await;
}

#[tokio::test]
async fn an_engine_hears_of_a_run_that_another_process_made() {
    let (store, url) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let (ran, mut runs) = mpsc::unbounded_channel();
    let registry = kinds(move |context, _| {
        ran.send(context.instance.run_id).unwrap();
        async { Ok(Outcome::success()) }
    });
    let quiet = Options {
        heartbeat: Duration::from_secs(3600),
        lease: Duration::from_secs(7200),
        ..options("test")
    };
    let engine = start_with(
        &store,
        registry,
        Roles::Both,
        quiet,
        Arc::new(SystemClock::new()),
    )
    .await;
    let elsewhere = Store::connect(&url).await.unwrap();
    let changes = Changes::listen(&elsewhere).await.unwrap();
    let run = trigger(&elsewhere, &single).await;
    bell::ring(&elsewhere).await.unwrap();
    assert_eq!(runs.recv().await, Some(run.0));
    assert_eq!(run_end(&elsewhere, changes, run).await, RunState::Success);
    finish(engine).await;
}

#[tokio::test]
async fn outputs_reach_the_templates_of_tasks_below_and_are_kept() {
    let (store, _) = fresh_store().await;
    let mut pair = dag("pair", &[("above", &[]), ("below", &["above"])]);
    pair.tasks[0]
        .with
        .insert("say".to_owned(), json!("{{ run.id }}"));
    pair.tasks[1]
        .with
        .insert("say".to_owned(), json!("{{ outputs.above.list }}"));
    publish(&store, &pair).await;
    let registry = kinds(|_, with| async move {
        Ok(Outcome::Success {
            output: json!({ "list": [with["say"]] }),
        })
    });
    let engine = start(&store, registry).await;
    let run = trigger(&store, &pair).await;
    engine.bell().ring();
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Success
    );
    let below = &store.instances(run).await.unwrap()[1];
    let first = store
        .output(store.instances(run).await.unwrap()[0].instance_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        store.output(below.instance_id).await.unwrap(),
        Some(json!({ "list": [first["list"]] }))
    );
    assert_eq!(
        store.rendered(below.instance_id, 1).await.unwrap(),
        Some(json!({ "say": first["list"] }))
    );
    finish(engine).await;
}

#[tokio::test]
async fn a_template_that_cannot_be_rendered_is_a_permanent_failure() {
    let (store, _) = fresh_store().await;
    let mut pair = dag("pair", &[("above", &[]), ("below", &["above"])]);
    pair.tasks[1]
        .with
        .insert("say".to_owned(), json!("{{ outputs.above.nothing }}"));
    pair.tasks[1].retries = 5;
    publish(&store, &pair).await;
    let engine = start(&store, noop()).await;
    let run = trigger(&store, &pair).await;
    engine.bell().ring();
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Failed
    );
    let below = &store.instances(run).await.unwrap()[1];
    assert_eq!((below.state, below.tries), (TaskState::Failed, 1));
    assert!(
        below.reason.as_ref().unwrap().contains("nothing"),
        "{:?}",
        below.reason
    );
    finish(engine).await;
}

#[tokio::test]
async fn a_task_that_exceeds_its_timeout_is_stopped_and_recorded_with_the_reason() {
    let (store, _) = fresh_store().await;
    let mut single = dag("single", &[("a", &[])]);
    single.tasks[0].timeout = Some(Duration::from_millis(20));
    publish(&store, &single).await;
    let registry = kinds(|context, _| async move {
        context.cancel.cancelled().await;
        context.log.say("cleaning up").await;
        Ok(Outcome::success())
    });
    let engine = start(&store, registry).await;
    let run = trigger(&store, &single).await;
    engine.bell().ring();
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Failed
    );
    let instance = store.instances(run).await.unwrap()[0].instance_id;
    let tries = store.tries(instance).await.unwrap();
    assert_eq!(tries[0].outcome, Some(TryOutcome::Timeout));
    assert!(
        tries[0].reason.as_ref().unwrap().contains("20ms"),
        "{:?}",
        tries[0].reason
    );
    assert_eq!(
        store
            .log(instance, LogPosition::default(), 10)
            .await
            .unwrap()[0]
            .message,
        "cleaning up"
    );
    finish(engine).await;
}

#[tokio::test]
async fn a_task_that_panics_is_recorded_with_its_message_and_retried_by_its_policy() {
    let (store, _) = fresh_store().await;
    let mut single = dag("single", &[("a", &[])]);
    single.tasks[0].retries = 1;
    publish(&store, &single).await;
    let clock = Arc::new(ShiftedClock::default());
    let registry = kinds(|context: Context, _| async move {
        assert!(context.instance.try_number > 1, "first time unlucky");
        Ok(Outcome::success())
    });
    let engine = start_with(
        &store,
        registry,
        Roles::Both,
        options("test"),
        clock.clone(),
    )
    .await;
    let mut changes = engine.changes();
    let run = trigger(&store, &single).await;
    engine.bell().ring();
    while states(&store, run).await["a"] != TaskState::Sleeping {
        changes.next().await;
    }
    let instance = store.instances(run).await.unwrap()[0].instance_id;
    let tries = store.tries(instance).await.unwrap();
    assert!(
        tries[0]
            .reason
            .as_ref()
            .unwrap()
            .contains("first time unlucky"),
        "{:?}",
        tries[0].reason
    );
    clock.advance(TimeDelta::hours(2));
    assert_eq!(run_end(&store, changes, run).await, RunState::Success);
    finish(engine).await;
}

#[tokio::test]
async fn cancel_ends_a_running_task() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let registry = kinds(move |context, _| {
        let tell = tell.clone();
        async move {
            tell.send("runs").unwrap();
            context.cancel.cancelled().await;
            tell.send("stopped").unwrap();
            Ok(Outcome::success())
        }
    });
    let quiet = Options {
        heartbeat: Duration::from_secs(3600),
        lease: Duration::from_secs(7200),
        ..options("test")
    };
    let engine = start_with(
        &store,
        registry,
        Roles::Both,
        quiet,
        Arc::new(SystemClock::new()),
    )
    .await;
    let run = trigger(&store, &single).await;
    engine.bell().ring();
    assert_eq!(told.recv().await, Some("runs"));
    store.cancel_run(run, "ada").await.unwrap();
    bell::ring(&store).await.unwrap();
    assert_eq!(told.recv().await, Some("stopped"));
    assert_eq!(states(&store, run).await["a"], TaskState::Cancelled);
    finish(engine).await;
    assert_eq!(
        states(&store, run).await["a"],
        TaskState::Cancelled,
        "its late result changes nothing"
    );
}

#[tokio::test]
async fn what_a_mark_or_the_end_of_its_runs_time_ends_is_stopped() {
    let (store, _) = fresh_store().await;
    let mut single = dag("single", &[("a", &[])]);
    single.timeout = Some(Duration::from_secs(3600));
    publish(&store, &single).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let registry = kinds(move |context, _| {
        let tell = tell.clone();
        async move {
            tell.send("runs").unwrap();
            context.cancel.cancelled().await;
            tell.send("stopped").unwrap();
            Ok(Outcome::success())
        }
    });
    let quiet = Options {
        heartbeat: Duration::from_secs(3600),
        lease: Duration::from_secs(7200),
        ..options("test")
    };
    let clock = Arc::new(ShiftedClock::default());
    let engine = start_with(&store, registry, Roles::Both, quiet, clock.clone()).await;
    let run = trigger(&store, &single).await;
    engine.bell().ring();
    assert_eq!(told.recv().await, Some("runs"));
    let marked = store
        .mark(crate::store::MarkRequest {
            run_id: run,
            selection: crate::store::MarkSelection::WholeRun,
            marked: crate::store::MarkedAs::Success,
            actor: "ada".to_owned(),
        })
        .await
        .unwrap();
    assert_eq!(marked.stopped, 1);
    bell::ring(&store).await.unwrap();
    assert_eq!(told.recv().await, Some("stopped"));
    assert_eq!(states(&store, run).await["a"], TaskState::Success);

    let run = trigger(&store, &single).await;
    engine.bell().ring();
    assert_eq!(told.recv().await, Some("runs"));
    clock.advance(TimeDelta::hours(2));
    assert_eq!(told.recv().await, Some("stopped"));
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Failed
    );
    assert_eq!(states(&store, run).await["a"], TaskState::Skipped);
    finish(engine).await;
}

#[tokio::test]
async fn a_cleared_task_runs_again_with_what_is_below_it() {
    let (store, _) = fresh_store().await;
    let chain = dag("chain", &[("a", &[]), ("b", &["a"]), ("c", &["b"])]);
    publish(&store, &chain).await;
    let failing = Arc::new(AtomicUsize::new(1));
    let registry = kinds({
        let failing = Arc::clone(&failing);
        move |context: Context, _| {
            let fails = context.instance.task_id == "b" && failing.swap(0, Ordering::SeqCst) == 1;
            async move {
                if fails {
                    Err(Failure::permanent("once"))
                } else {
                    Ok(Outcome::success())
                }
            }
        }
    });
    let engine = start(&store, registry).await;
    let run = trigger(&store, &chain).await;
    engine.bell().ring();
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Failed
    );
    let request = ClearRequest {
        run_id: run,
        selection: ClearSelection::Failed,
        scope: ClearScope::WithDownstream,
        version: crate::store::ClearVersion::Same,
        actor: "ada".to_owned(),
    };
    let cleared = store.clear(request).await.unwrap();
    assert_eq!(cleared.tasks.len(), 2);
    engine.bell().ring();
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Success
    );
    finish(engine).await;
}

#[tokio::test]
async fn two_engines_run_each_cron_tick_once() {
    let (store, url) = fresh_store().await;
    let mut hourly = dag("hourly", &[("a", &[])]);
    hourly.schedule =
        Some(crate::model::Schedule::parse_cron("0 * * * *", chrono_tz::Tz::UTC).unwrap());
    let clock = Arc::new(ShiftedClock::default());
    let other_store = Store::connect(&url).await.unwrap();
    let engines = [
        start_with(&store, noop(), Roles::Both, options("one"), clock.clone()).await,
        start_with(
            &other_store,
            noop(),
            Roles::Both,
            options("two"),
            clock.clone(),
        )
        .await,
    ];
    publish(&store, &hourly).await;
    engines[0].bell().ring();
    let mut changes = engines[0].changes();
    for hour in 1..=6 {
        clock.advance(TimeDelta::hours(1));
        loop {
            let runs = store
                .runs(&crate::store::RunFilter {
                    limit: 100,
                    ..Default::default()
                })
                .await
                .unwrap();
            assert!(runs.len() <= hour, "a tick is run once");
            if runs.len() == hour && runs.iter().all(|run| run.state == RunState::Success) {
                break;
            }
            let _changed = tokio::time::timeout(Duration::from_millis(500), changes.next()).await;
        }
    }
    let runs = store
        .runs(&crate::store::RunFilter {
            limit: 100,
            ..Default::default()
        })
        .await
        .unwrap();
    let mut starts: Vec<_> = runs
        .iter()
        .map(|run| (run.data_interval_start, run.data_interval_end))
        .collect();
    starts.sort_unstable();
    assert!(
        starts.windows(2).all(|pair| pair[0].1 == pair[1].0),
        "the intervals follow one another: {starts:?}"
    );
    for engine in engines {
        finish(engine).await;
    }
}

#[tokio::test]
async fn a_pools_slots_are_never_exceeded() {
    let (store, url) = fresh_store().await;
    let names: Vec<String> = (0..30).map(|number| format!("task_{number}")).collect();
    let tasks: Vec<(&str, &[&str])> = names
        .iter()
        .map(|name| (name.as_str(), &[] as &[&str]))
        .collect();
    let mut wide = dag("wide", &tasks);
    for task in &mut wide.tasks {
        task.pool = "narrow".to_owned();
    }
    publish(&store, &wide).await;
    limit_pool(&store, "narrow", 3).await;
    let inside = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let registry = kinds({
        let most = Arc::clone(&most);
        move |_, _| {
            let (inside, most) = (Arc::clone(&inside), Arc::clone(&most));
            async move {
                most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                Ok(Outcome::success())
            }
        }
    });
    let other_store = Store::connect(&url).await.unwrap();
    let one = start(&store, registry.clone()).await;
    let two = start(&other_store, registry).await;
    let run = trigger(&store, &wide).await;
    one.bell().ring();
    assert_eq!(run_end(&store, one.changes(), run).await, RunState::Success);
    let most = most.load(Ordering::SeqCst);
    assert!((1..=3).contains(&most), "{most} ran at once");
    finish(one).await;
    finish(two).await;
}

#[tokio::test]
async fn a_graceful_stop_hands_back_what_runs_without_spending_a_try() {
    let (store, url) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let patient = kinds(move |context, _| {
        tell.send(()).unwrap();
        async move {
            context.cancel.cancelled().await;
            Err(Failure::retryable("interrupted"))
        }
    });
    let engine = start(&store, patient).await;
    let run = trigger(&store, &single).await;
    engine.bell().ring();
    told.recv().await;
    finish(engine).await;
    let row = &store.instances(run).await.unwrap()[0];
    assert_eq!((row.state, row.tries), (TaskState::Queued, 0));
    assert!(store.workers().await.unwrap().is_empty());
    let other_store = Store::connect(&url).await.unwrap();
    let engine = start(&other_store, noop()).await;
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Success
    );
    finish(engine).await;
}

#[tokio::test]
async fn a_worker_that_is_asked_to_stop_says_so_while_its_tasks_end() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let registry = kinds({
        let gate = Arc::clone(&gate);
        move |_, _| {
            tell.send(()).unwrap();
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(Outcome::success())
            }
        }
    });
    // No heartbeat comes by the clock.
    let patient = Options {
        heartbeat: Duration::from_secs(3600),
        lease: Duration::from_secs(7200),
        grace: Duration::from_secs(3600),
        ..options("test")
    };
    let clock = Arc::new(SystemClock::new());
    let engine = start_with(&store, registry, Roles::Both, patient, clock).await;
    let mut changes = engine.changes();
    let run = trigger(&store, &single).await;
    engine.bell().ring();
    told.recv().await;
    let stopping = tokio::spawn(engine.stop());
    let process = async || {
        let mut rows = store.processes(WorkerScope::Recent).await.unwrap();
        rows.pop().unwrap()
    };
    while process().await.state != WorkerState::Stopping {
        changes.next().await;
    }
    let row = process().await;
    assert_eq!((row.running, row.stopping_at.is_some()), (1, true));
    assert_eq!(row.load.memory_bytes.is_some(), cfg!(target_os = "linux"));
    gate.add_permits(1);
    stopping.await.unwrap();
    assert_eq!(process().await.state, WorkerState::Ended);
    assert_eq!(states(&store, run).await["a"], TaskState::Success);
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_stops_its_work_and_goes_on_with_a_new_one() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let registry = kinds(move |context: Context, _| {
        let tell = tell.clone();
        let first = tell.send("runs").is_ok() && context.instance.try_number == 1;
        async move {
            if first && !tell.is_closed() && context.resume.is_none() {
                tokio::select! {
                    () = context.cancel.cancelled() => tell.send("stopped").unwrap(),
                    () = testing::gate() => {}
                }
            }
            Ok(Outcome::success())
        }
    });
    let engine = start(&store, registry).await;
    let run = trigger(&store, &single).await;
    engine.bell().ring();
    assert_eq!(told.recv().await, Some("runs"));
    // A heartbeat in between renews a lease that nobody has ended yet.
    loop {
        expire_workers(&store).await;
        if store.reap().await.unwrap().effects.work {
            break;
        }
    }
    assert_eq!(
        told.recv().await,
        Some("stopped"),
        "it learns of it with its next heartbeat"
    );
    testing::open_gate();
    assert_eq!(
        told.recv().await,
        Some("runs"),
        "and claims it again under a new lease"
    );
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Success
    );
    let instance = store.instances(run).await.unwrap()[0].instance_id;
    let outcomes: Vec<_> = store
        .tries(instance)
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.outcome)
        .collect();
    assert_eq!(
        outcomes,
        [Some(TryOutcome::Lost), Some(TryOutcome::Success)]
    );
    finish(engine).await;
}

#[tokio::test]
async fn every_line_of_a_log_is_there_when_the_state_is_final() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let registry = kinds(|context, _| async move {
        for line in 0..3_000 {
            context.log.say(format!("line {line}")).await;
        }
        Ok(Outcome::success())
    });
    let engine = start(&store, registry).await;
    let run = trigger(&store, &single).await;
    engine.bell().ring();
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Success
    );
    let instance = store.instances(run).await.unwrap()[0].instance_id;
    let lines = store
        .log(instance, LogPosition::default(), 10_000)
        .await
        .unwrap();
    assert_eq!(lines.len(), 3_000);
    assert!(
        lines
            .iter()
            .enumerate()
            .all(|(number, row)| row.message == format!("line {number}"))
    );
    finish(engine).await;
}

#[tokio::test]
async fn connections_cut_under_load_lose_nothing_and_double_nothing() {
    let (store, url) = fresh_store().await;
    let chain = dag(
        "chain",
        &[
            ("a", &[]),
            ("b", &["a"]),
            ("c", &["b"]),
            ("d", &["a"]),
            ("e", &["c", "d"]),
        ],
    );
    publish(&store, &chain).await;
    let executed: Arc<std::sync::Mutex<BTreeMap<(i64, i32), usize>>> = Arc::default();
    let progress = Arc::new(Semaphore::new(0));
    let registry = kinds({
        let (executed, progress) = (Arc::clone(&executed), Arc::clone(&progress));
        move |context: Context, _| {
            let key = (context.instance.instance_id, context.instance.try_number);
            *executed.lock().unwrap().entry(key).or_default() += 1;
            progress.add_permits(1);
            async {
                Ok(Outcome::Success {
                    output: json!({ "done": true }),
                })
            }
        }
    });
    let mut runs = Vec::new();
    for _ in 0..40 {
        runs.push(trigger(&store, &chain).await);
    }
    let other_store = Store::connect(&url).await.unwrap();
    let one = start(&store, registry.clone()).await;
    let two = start(&other_store, registry).await;
    let mut cuts = 0;
    for _ in 0..12 {
        progress.acquire_many(12).await.unwrap().forget();
        cuts += cut_connections(&url).await;
    }
    assert!(cuts >= 12, "connections were cut: {cuts}");
    for run in &runs {
        assert_eq!(
            run_end(&store, one.changes(), *run).await,
            RunState::Success
        );
        for row in store.instances(*run).await.unwrap() {
            assert_eq!(row.state, TaskState::Success);
            let tries = store.tries(row.instance_id).await.unwrap();
            assert_eq!(tries.len(), 1, "one execution is recorded once: {tries:?}");
        }
    }
    let twice = executed
        .lock()
        .unwrap()
        .values()
        .filter(|count| **count > 1)
        .count();
    assert_eq!(twice, 0, "no lease was lost, so nothing ran twice");
    finish(one).await;
    finish(two).await;
}

const GOOD: &str = "[dag]\nid = \"daily\"\n\n[tasks.a]\nkind = \"test\"\n";

#[tokio::test]
async fn a_broken_file_keeps_the_last_good_version() {
    let (store, _) = fresh_store().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("daily.toml");
    fs::write(&file, GOOD).unwrap();
    let with_folder = Options {
        dag_folder: Some(folder.path().to_owned()),
        ..options("test")
    };
    let engine = start_with(
        &store,
        noop(),
        Roles::Both,
        with_folder,
        Arc::new(SystemClock::new()),
    )
    .await;
    let before = store.dags().await.unwrap();
    assert_eq!(before.len(), 1);

    fs::write(&file, GOOD.replace("kind", "kin")).unwrap();
    let reloaded = engine.reload_dags().await.unwrap();
    assert_eq!((reloaded.good, reloaded.bad), (0, 1));
    let errors = store.file_errors().await.unwrap();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].report.contains("kin"), "{}", errors[0].report);
    let broken = store.dags().await.unwrap();
    assert_eq!(
        (broken[0].version_id, broken[0].present),
        (before[0].version_id, true)
    );
    let run = trigger(&store, &dag("daily", &[])).await;
    engine.bell().ring();
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Success
    );

    // The folder is looked at without being told.
    fs::write(
        &file,
        format!("{GOOD}\n[tasks.b]\nkind = \"test\"\nafter = [\"a\"]\n"),
    )
    .unwrap();
    let mut changes = engine.changes();
    while store.dags().await.unwrap()[0].version_id == before[0].version_id {
        changes.next().await;
    }
    while !store.file_errors().await.unwrap().is_empty() {
        changes.next().await;
    }
    fs::remove_file(&file).unwrap();
    while store.dags().await.unwrap()[0].present {
        changes.next().await;
    }
    finish(engine).await;
}

#[tokio::test]
async fn an_unknown_kind_is_a_permanent_failure_that_says_so() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let engine = start(&store, Registry::default()).await;
    let run = trigger(&store, &single).await;
    engine.bell().ring();
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Failed
    );
    assert!(
        store.instances(run).await.unwrap()[0]
            .reason
            .as_ref()
            .unwrap()
            .contains("`test`")
    );
    finish(engine).await;
}

#[tokio::test]
async fn who_asks_hears_until_when_tasks_may_run_before_the_first_and_after_every_renewal() {
    let (store, _) = fresh_store().await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let asked = std::time::Instant::now();
    let listening = Options {
        on_lease: OnLease::new(move |until| tell.send(until).unwrap()),
        ..options("test")
    };
    let lease = listening.lease;
    let clock = Arc::new(SystemClock::new());
    let engine = start_with(&store, noop(), Roles::Worker, listening, clock).await;
    let first = told.try_recv().expect("told before anything could run");
    assert!(
        first > asked && first < std::time::Instant::now() + lease,
        "others may have the tasks when the lease is over"
    );
    assert!(told.recv().await.expect("the lease is renewed") > first);
    finish(engine).await;
}
