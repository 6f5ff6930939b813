//! Backfills: which runs begin when, and what becomes of them.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};

use super::{claim, ended, number, register, sql, success};
use crate::{
    model::{
        BackfillId, Dag, Params, RunId, RunKind, RunState, Schedule, WorkerId,
        backfill::{
            BackfillState, DateAction, DateState, Direction, OnFailure, RangeError, Reprocess,
        },
    },
    store::{
        BackfillFilter, BackfillRow, Ending, Error, NewBackfill, NewRun, OpenRuns, Paused,
        RunFilter, RunRow, Steer, Store,
    },
    testing::{dag, fresh_store, publish, run_state, states},
};

fn at(day: u32) -> DateTime<Utc> {
    format!("2026-01-{day:02}T00:00:00Z").parse().unwrap()
}

/// A DAG of one task, once a day; nothing of the past is made up for.
fn daily(id: &str) -> Dag {
    let mut daily = dag(id, &[("a", &[])]);
    daily.schedule = Some(Schedule::parse_cron("@daily", chrono_tz::Tz::UTC).unwrap());
    daily.max_active_runs = 1;
    daily
}

fn new(dag: &Dag, from: u32, to: u32) -> NewBackfill {
    NewBackfill {
        dag_id: dag.id.clone(),
        from: at(from),
        to: at(to),
        reprocess: Reprocess::None,
        direction: Direction::Forwards,
        on_failure: OnFailure::Continue,
        max_active_runs: Some(1),
        params: Params::new(),
        actor: "ada".to_owned(),
    }
}

async fn running(store: &Store, dag: &Dag) -> Vec<RunRow> {
    let filter = RunFilter {
        dag_id: Some(dag.id.clone()),
        states: vec![RunState::Running],
        before: None,
        limit: 500,
    };
    let mut runs = store.runs(&filter).await.unwrap();
    runs.sort_by_key(|run| run.logical_date);
    runs
}

async fn running_dates(store: &Store, dag: &Dag) -> Vec<DateTime<Utc>> {
    let runs = running(store, dag).await;
    runs.iter().map(|run| run.logical_date).collect()
}

async fn show(store: &Store, backfill_id: BackfillId) -> BackfillRow {
    store.backfill(backfill_id).await.unwrap()
}

/// Everything that can be claimed ends in the same way.
async fn work(store: &Store, worker: WorkerId, ending: impl Fn() -> Ending) {
    for one in claim(store, worker, 100).await {
        store.settle(&[ended(one, ending())]).await.unwrap();
    }
}

fn failure() -> Ending {
    Ending::Failed(pinwheel_tasks::Failure::permanent("it went wrong"))
}

#[tokio::test]
async fn a_finisher_begins_the_next_date_in_its_own_transaction() {
    let (store, _) = fresh_store().await;
    let dag = daily("daily");
    publish(&store, &dag).await;
    let worker = register(&store, "w").await;
    let backfill = NewBackfill {
        max_active_runs: Some(2),
        ..new(&dag, 1, 5)
    };
    let backfill = store.create_backfill(&backfill).await.unwrap();
    assert_eq!(running_dates(&store, &dag).await, [at(1), at(2)]);
    work(&store, worker, success).await;
    assert_eq!(running_dates(&store, &dag).await, [at(3), at(4)]);
    let row = show(&store, backfill).await;
    assert_eq!((row.progress.success, row.progress.waiting), (2, 1));
    work(&store, worker, success).await;
    work(&store, worker, success).await;
    let row = show(&store, backfill).await;
    assert_eq!(row.state, BackfillState::Success);
    assert_eq!((row.progress.success, row.progress.total), (5, 5));
    let run = store.run(RunId(1)).await.unwrap().unwrap();
    assert_eq!(
        (run.kind, run.data_interval_start, run.data_interval_end),
        (RunKind::Backfill, at(1), at(2))
    );
    assert_eq!(run.triggered_by, format!("backfill {backfill} by ada"));
    assert_eq!(
        number(
            &store,
            "select count(*) from dag where open_backfill is not null"
        )
        .await,
        0
    );
}

#[tokio::test]
async fn a_backfill_runs_backwards_when_it_is_told_to() {
    let (store, _) = fresh_store().await;
    let dag = daily("daily");
    publish(&store, &dag).await;
    let worker = register(&store, "w").await;
    let backwards = NewBackfill {
        direction: Direction::Backwards,
        ..new(&dag, 1, 3)
    };
    store.create_backfill(&backwards).await.unwrap();
    for day in [3, 2, 1] {
        assert_eq!(running_dates(&store, &dag).await, [at(day)]);
        work(&store, worker, success).await;
    }
    assert!(running(&store, &dag).await.is_empty());
}

#[tokio::test]
async fn a_date_keeps_its_run_and_the_run_goes_on_with_the_present_version() {
    let (store, _) = fresh_store().await;
    let mut dag = dag("daily", &[("a", &[]), ("b", &["a"]), ("gone", &["b"])]);
    dag.schedule = daily("daily").schedule;
    publish(&store, &dag).await;
    let worker = register(&store, "w").await;
    let first = store.create_backfill(&new(&dag, 1, 3)).await.unwrap();
    work(&store, worker, success).await;
    work(&store, worker, failure).await;
    for _ in 0..3 {
        work(&store, worker, success).await;
        work(&store, worker, success).await;
    }
    let row = show(&store, first).await;
    assert_eq!(row.state, BackfillState::Failed);
    assert_eq!((row.progress.failed, row.progress.success), (1, 2));

    let mut edited = crate::testing::dag("daily", &[("new", &[]), ("b", &["new"]), ("a", &["b"])]);
    edited.schedule = dag.schedule.clone();
    publish(&store, &edited).await;
    let again = NewBackfill {
        reprocess: Reprocess::Failed,
        ..new(&dag, 1, 4)
    };
    let planned = store.plan_backfill(&again).await.unwrap();
    let actions: Vec<_> = planned
        .iter()
        .map(|date| (date.run_state, date.action))
        .collect();
    assert_eq!(
        actions,
        [
            (Some(RunState::Failed), DateAction::Clear),
            (Some(RunState::Success), DateAction::Leave),
            (Some(RunState::Success), DateAction::Leave),
            (None, DateAction::Make)
        ]
    );
    let second = store.create_backfill(&again).await.unwrap();
    let run = &running(&store, &edited).await[0];
    assert_eq!(Some(run.run_id), planned[0].run_id, "the same run, cleared");
    let tasks: Vec<String> = states(&store, run.run_id).await.into_keys().collect();
    assert_eq!(
        tasks,
        ["a", "b", "gone", "new"],
        "what is gone stays as history"
    );
    for _ in 0..6 {
        work(&store, worker, success).await;
    }
    assert_eq!(run_state(&store, run.run_id).await, RunState::Success);
    let row = show(&store, second).await;
    assert_eq!(row.state, BackfillState::Success);
    assert_eq!((row.progress.success, row.progress.left_alone), (2, 2));
    let dates = store.backfill_dates(second, 0, 100).await.unwrap();
    let dates: Vec<_> = dates.iter().map(|date| date.state).collect();
    assert_eq!(
        dates,
        [
            DateState::Cleared,
            DateState::Left,
            DateState::Left,
            DateState::Made
        ]
    );
    super::check_invariants(&store).await;
    let found = store.check().await.unwrap().findings;
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test]
async fn a_backfill_stops_at_the_first_failure_until_somebody_lets_it_go_on() {
    let (store, _) = fresh_store().await;
    let dag = daily("daily");
    publish(&store, &dag).await;
    let worker = register(&store, "w").await;
    let careful = NewBackfill {
        on_failure: OnFailure::Stop,
        ..new(&dag, 1, 3)
    };
    let backfill = store.create_backfill(&careful).await.unwrap();
    work(&store, worker, failure).await;
    assert!(running(&store, &dag).await.is_empty());
    let row = show(&store, backfill).await;
    assert_eq!(
        (row.state, row.progress.waiting),
        (BackfillState::Stopped, 2)
    );
    store
        .steer_backfill(backfill, Steer::Resume, "ada")
        .await
        .unwrap();
    assert_eq!(running_dates(&store, &dag).await, [at(2)]);
    work(&store, worker, success).await;
    work(&store, worker, success).await;
    assert_eq!(show(&store, backfill).await.state, BackfillState::Failed);
}

#[tokio::test]
async fn a_paused_backfill_begins_nothing_and_a_cancelled_one_touches_no_date_any_more() {
    let (store, _) = fresh_store().await;
    let dag = daily("daily");
    publish(&store, &dag).await;
    let worker = register(&store, "w").await;
    let backfill = store.create_backfill(&new(&dag, 1, 4)).await.unwrap();
    store
        .steer_backfill(backfill, Steer::Pause, "ada")
        .await
        .unwrap();
    work(&store, worker, success).await;
    assert!(running(&store, &dag).await.is_empty());
    store
        .steer_backfill(backfill, Steer::Resume, "ada")
        .await
        .unwrap();
    assert_eq!(running_dates(&store, &dag).await, [at(2)]);
    store
        .cancel_backfill(backfill, OpenRuns::Keep, "ada")
        .await
        .unwrap();
    work(&store, worker, success).await;
    let row = show(&store, backfill).await;
    assert_eq!(row.state, BackfillState::Cancelled);
    assert_eq!((row.progress.success, row.progress.cancelled), (2, 2));
    assert_eq!(number(&store, "select count(*) from run").await, 2);
    let over = store.steer_backfill(backfill, Steer::Resume, "ada").await;
    assert!(matches!(over, Err(Error::BackfillIsFinal { .. })));

    let all = NewBackfill {
        reprocess: Reprocess::All,
        max_active_runs: Some(2),
        ..new(&dag, 1, 4)
    };
    let second = store.create_backfill(&all).await.unwrap();
    let cancelled = store
        .cancel_backfill(second, OpenRuns::Cancel, "ada")
        .await
        .unwrap();
    assert_eq!(cancelled, 2);
    assert!(running(&store, &dag).await.is_empty());
    assert_eq!(
        number(
            &store,
            "select count(*) from audit where action in ('backfill', 'pause backfill', 'resume backfill', 'cancel backfill')"
        )
        .await,
        6
    );
}

#[tokio::test]
async fn a_backfill_has_a_concurrency_of_its_own() {
    let (store, _) = fresh_store().await;
    let dag = daily("daily");
    publish(&store, &dag).await;
    let backfill = NewBackfill {
        max_active_runs: Some(3),
        ..new(&dag, 1, 9)
    };
    store.create_backfill(&backfill).await.unwrap();
    assert_eq!(running(&store, &dag).await.len(), 3);
    let by_hand = crate::testing::trigger(&store, &dag).await;
    let waits = crate::testing::trigger(&store, &dag).await;
    assert_eq!(run_state(&store, by_hand).await, RunState::Running);
    assert_eq!(run_state(&store, waits).await, RunState::Queued);
    let found = store.check().await.unwrap().findings;
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test]
async fn a_backfill_of_a_paused_dag_begins_with_the_dag() {
    let (store, _) = fresh_store().await;
    let dag = daily("daily");
    publish(&store, &dag).await;
    store
        .set_paused(&dag.id, Paused::Paused, "ada")
        .await
        .unwrap();
    let backfill = store.create_backfill(&new(&dag, 1, 2)).await.unwrap();
    assert!(running(&store, &dag).await.is_empty());
    assert!(show(&store, backfill).await.dag_is_paused);
    store
        .set_paused(&dag.id, Paused::Active, "ada")
        .await
        .unwrap();
    assert_eq!(running_dates(&store, &dag).await, [at(1)]);
}

#[tokio::test]
async fn a_run_that_somebody_holds_is_cleared_by_a_scheduler_and_the_finisher_does_not_wait() {
    let (store, url) = fresh_store().await;
    let dag = daily("daily");
    publish(&store, &dag).await;
    let worker = register(&store, "w").await;
    store.create_backfill(&new(&dag, 1, 2)).await.unwrap();
    work(&store, worker, success).await;
    work(&store, worker, success).await;
    let all = NewBackfill {
        reprocess: Reprocess::All,
        ..new(&dag, 1, 2)
    };
    let backfill = store.create_backfill(&all).await.unwrap();
    let mut holder = PgConnection::connect(&url).await.unwrap();
    holder.execute("begin").await.unwrap();
    holder
        .execute("select from run where logical_date = '2026-01-02T00:00:00Z' for no key update")
        .await
        .unwrap();
    work(&store, worker, success).await;
    assert!(running(&store, &dag).await.is_empty());
    assert_eq!(
        store
            .next_deadline(chrono::TimeDelta::zero())
            .await
            .unwrap()
            .work,
        Some(std::time::Duration::ZERO),
        "a scheduler has something to do"
    );
    holder.execute("rollback").await.unwrap();
    let effects = store.go_on_with_backfills().await.unwrap();
    assert!(effects.work);
    assert_eq!(running_dates(&store, &dag).await, [at(2)]);
    work(&store, worker, success).await;
    assert_eq!(show(&store, backfill).await.state, BackfillState::Success);
}

#[tokio::test]
async fn neither_the_schedule_nor_a_backfill_makes_a_second_run_for_a_date() {
    let (store, _) = fresh_store().await;
    store
        .begin_watch(
            std::time::Duration::from_secs(3600),
            chrono::TimeDelta::zero(),
        )
        .await
        .unwrap();
    let mut dag = daily("daily");
    dag.start = Some(Utc::now() - chrono::TimeDelta::days(6));
    dag.catchup = crate::model::Catchup::All;
    publish(&store, &dag).await;
    let backfill = NewBackfill {
        from: Utc::now() - chrono::TimeDelta::days(10),
        to: Utc::now(),
        max_active_runs: Some(100),
        ..new(&dag, 1, 1)
    };
    store.create_backfill(&backfill).await.unwrap();
    let others = [store.clone(), Store::from_pool(&store.people)];
    let passes = others
        .iter()
        .map(|one| one.schedule_due(chrono::TimeDelta::zero()));
    for pass in futures::future::join_all(passes).await {
        pass.unwrap();
    }
    let dates = number(&store, "select count(distinct logical_date) from run").await;
    assert_eq!(number(&store, "select count(*) from run").await, dates);
    assert!(dates >= 9, "{dates}");
}

#[tokio::test]
async fn params_reach_every_run_and_a_cleared_run_keeps_what_was_not_given() {
    let (store, _) = fresh_store().await;
    let mut dag = daily("daily");
    for name in ["size", "colour"] {
        let param = crate::model::Param {
            param_type: crate::model::ParamType::String,
            default: Some(json!("default")),
            description: String::new(),
            minimum: None,
            maximum: None,
            pattern: None,
            choices: Vec::new(),
        };
        dag.params.insert(name.to_owned(), param);
    }
    publish(&store, &dag).await;
    let given = |name: &str, value: &str| Params::from_iter([(name.to_owned(), json!(value))]);
    let by_hand = store
        .trigger(NewRun {
            dag_id: dag.id.clone(),
            kind: RunKind::Manual,
            logical_date: Some(at(1)),
            params: given("size", "small"),
            triggered_by: "ada".to_owned(),
        })
        .await
        .unwrap();
    store.cancel_run(by_hand, "ada").await.unwrap();
    let wrong = NewBackfill {
        params: given("sise", "large"),
        ..new(&dag, 1, 2)
    };
    assert!(matches!(
        store.create_backfill(&wrong).await,
        Err(Error::Params(_))
    ));
    let backfill = NewBackfill {
        params: given("colour", "red"),
        reprocess: Reprocess::Failed,
        max_active_runs: Some(2),
        ..new(&dag, 1, 2)
    };
    store.create_backfill(&backfill).await.unwrap();
    let runs = running(&store, &dag).await;
    assert_eq!(runs[0].run_id, by_hand);
    let params: Vec<_> = runs.iter().map(|run| json!(run.params)).collect();
    assert_eq!(
        params,
        [
            json!({ "colour": "red", "size": "small" }),
            json!({ "colour": "red", "size": "default" })
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_backfilled_is_refused_with_the_next_step() {
    let (store, _) = fresh_store().await;
    let unscheduled = dag("by_hand", &[("a", &[])]);
    publish(&store, &unscheduled).await;
    let error = store
        .create_backfill(&new(&unscheduled, 1, 2))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NoSchedule { .. }), "{error}");
    assert!(error.hint().unwrap().contains("schedule"));

    let dag = daily("daily");
    publish(&store, &dag).await;
    let error = store.create_backfill(&new(&dag, 2, 1)).await.unwrap_err();
    assert!(
        matches!(error, Error::Range(RangeError::Reversed { .. })),
        "{error}"
    );

    let worker = register(&store, "w").await;
    let backfill = store.create_backfill(&new(&dag, 1, 2)).await.unwrap();
    let error = store.create_backfill(&new(&dag, 3, 4)).await.unwrap_err();
    assert!(
        matches!(error, Error::BackfillIsOpen { backfill_id, .. } if backfill_id == backfill),
        "{error}"
    );
    work(&store, worker, success).await;
    work(&store, worker, success).await;
    let error = store.create_backfill(&new(&dag, 1, 2)).await.unwrap_err();
    assert!(
        matches!(error, Error::NothingToBackfill { dates: 2 }),
        "{error}"
    );

    let unknown = store.backfill(BackfillId(77)).await.unwrap_err();
    assert!(matches!(unknown, Error::UnknownBackfill { .. }));
    let filter = BackfillFilter {
        dag_id: Some(dag.id.clone()),
        before: None,
        limit: 10,
    };
    assert_eq!(store.backfills(&filter).await.unwrap().len(), 1);
}

#[tokio::test]
async fn retention_may_remove_runs_of_a_backfill_that_is_over() {
    let (store, _) = fresh_store().await;
    let dag = daily("daily");
    publish(&store, &dag).await;
    let worker = register(&store, "w").await;
    let backfill = store.create_backfill(&new(&dag, 1, 2)).await.unwrap();
    work(&store, worker, success).await;
    work(&store, worker, success).await;
    sql(
        &store,
        "delete from task_instance; delete from run where run_id = 1;".to_owned(),
    )
    .await;
    let row = show(&store, backfill).await;
    assert_eq!((row.progress.success, row.progress.removed), (1, 1));
}
