//! Running again where more than a line of tasks is there: lists, setups, and the run before.

use chrono::{DateTime, Utc};
use pinwheel_tasks::Failure;
use serde_json::{Value, json};

use super::{claim, ended, number, register, success};
use crate::{
    model::{Dag, Foreach, Params, RunId, RunKind, RunState, Task, TaskId, TaskState, WorkerId},
    store::{
        Claimed, ClearRequest, ClearScope, ClearSelection, ClearVersion, Ended, Ending, Error,
        Item, NewRun, Store,
    },
    testing::{change, dag, fresh_store, publish, run_state, states, trigger},
};

fn clear(run_id: RunId, tasks: &[&str], scope: ClearScope) -> ClearRequest {
    let selection = if tasks.is_empty() {
        ClearSelection::WholeRun
    } else {
        ClearSelection::Tasks(tasks.iter().map(|id| TaskId::new(*id).unwrap()).collect())
    };
    ClearRequest {
        run_id,
        selection,
        scope,
        version: ClearVersion::Same,
        actor: "ada".to_owned(),
    }
}

fn expanded(list: &[i64]) -> Ending {
    let items = list
        .iter()
        .map(|item| Item {
            item: json!(item),
            name: None,
            key: None,
        })
        .collect();
    Ending::Expanded { items }
}

/// Whether it stands for a list that is still to be made.
fn makes_list(claimed: &Claimed) -> bool {
    claimed.task().flow.foreach.is_some() && claimed.item.is_none()
}

/// Runs what there is; a list has these items.
async fn run_all(
    store: &Store,
    worker: WorkerId,
    list: &[i64],
    ending: impl Fn(&Claimed) -> Ending,
) -> Vec<String> {
    let mut ran = Vec::new();
    loop {
        let claimed = claim(store, worker, 8).await;
        if claimed.is_empty() {
            return ran;
        }
        let batch: Vec<Ended> = claimed
            .into_iter()
            .map(|one| {
                let ending = if makes_list(&one) {
                    expanded(list)
                } else {
                    ran.push(one.task().id.to_string());
                    ending(&one)
                };
                ended(one, ending)
            })
            .collect();
        store.settle(&batch).await.unwrap();
    }
}

fn fails(id: &'static str) -> impl Fn(&Claimed) -> Ending {
    move |claimed| match claimed.task().id.as_str() == id {
        true => Ending::Failed(Failure::permanent("as the test says")),
        false => success(),
    }
}

fn succeeds(_: &Claimed) -> Ending {
    success()
}

async fn nothing_is_wrong(store: &Store) {
    let checked = store.check().await.unwrap();
    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
}

fn list(id: &str) -> Dag {
    let list = dag(
        id,
        &[("above", &[]), ("each", &["above"]), ("sum", &["each"])],
    );
    change(list, "each", foreach)
}

fn foreach(task: &mut Task) {
    task.flow.foreach = Some(Foreach {
        list: Value::Array(Vec::new()),
        item_name: None,
        max_active_items: None,
    });
}

#[tokio::test]
async fn a_failure_above_ends_a_list_that_a_clear_has_done_away_with() {
    let (store, _) = fresh_store().await;
    let dag = list("list");
    publish(&store, &dag).await;
    let run = trigger(&store, &dag).await;
    let worker = register(&store, "one").await;
    run_all(&store, worker, &[1, 2, 3], succeeds).await;
    assert_eq!(run_state(&store, run).await, RunState::Success);

    store
        .clear(clear(run, &["above"], ClearScope::WithDownstream))
        .await
        .unwrap();
    nothing_is_wrong(&store).await;
    run_all(&store, worker, &[1, 2, 3], fails("above")).await;
    assert_eq!(run_state(&store, run).await, RunState::Failed);
    let found = states(&store, run).await;
    assert_eq!(
        ["above", "each", "sum"].map(|id| found[id]),
        [
            TaskState::Failed,
            TaskState::UpstreamFailed,
            TaskState::UpstreamFailed
        ]
    );
    nothing_is_wrong(&store).await;

    store
        .clear(clear(run, &[], ClearScope::Only))
        .await
        .unwrap();
    let ran = run_all(&store, worker, &[4, 5], succeeds).await;
    assert_eq!(ran, ["above", "each", "each", "sum"]);
    assert_eq!(run_state(&store, run).await, RunState::Success);
    nothing_is_wrong(&store).await;
}

#[tokio::test]
async fn a_task_that_is_mapped_no_more_runs_once() {
    let (store, _) = fresh_store().await;
    let mapped = list("list");
    publish(&store, &mapped).await;
    let run = trigger(&store, &mapped).await;
    let worker = register(&store, "one").await;
    run_all(&store, worker, &[1, 2, 3], succeeds).await;
    let plain = change(mapped, "each", |task| task.flow.foreach = None);
    publish(&store, &plain).await;
    let request = ClearRequest {
        version: ClearVersion::Latest,
        ..clear(run, &[], ClearScope::Only)
    };
    store.clear(request).await.unwrap();
    let ran = run_all(&store, worker, &[], succeeds).await;
    assert_eq!(ran, ["above", "each", "sum"]);
    assert_eq!(run_state(&store, run).await, RunState::Success);
    nothing_is_wrong(&store).await;
}

#[tokio::test]
async fn no_list_is_made_anew_around_an_item_in_somebodys_hands() {
    let (store, _) = fresh_store().await;
    let dag = list("list");
    publish(&store, &dag).await;
    let run = trigger(&store, &dag).await;
    let worker = register(&store, "one").await;
    let above = claim(&store, worker, 1).await.pop().unwrap();
    store.settle(&[ended(above, success())]).await.unwrap();
    let each = claim(&store, worker, 1).await.pop().unwrap();
    store
        .settle(&[ended(each, expanded(&[1, 2]))])
        .await
        .unwrap();
    let mut items = claim(&store, worker, 8).await;
    assert_eq!(items.len(), 2);
    let running = items.pop().unwrap();
    store
        .settle(&[ended(items.pop().unwrap(), success())])
        .await
        .unwrap();
    let request = clear(run, &["above"], ClearScope::WithDownstream);
    let refused = store.clear(request.clone()).await;
    assert!(
        matches!(
            refused,
            Err(Error::TaskIsActive {
                state: TaskState::Running,
                ..
            })
        ),
        "{refused:?}"
    );
    nothing_is_wrong(&store).await;
    store.settle(&[ended(running, success())]).await.unwrap();
    run_all(&store, worker, &[], succeeds).await;
    store.clear(request).await.unwrap();
    let ran = run_all(&store, worker, &[1, 2, 3], succeeds).await;
    assert_eq!(ran, ["above", "each", "each", "each", "sum"]);
    nothing_is_wrong(&store).await;
}

#[tokio::test]
async fn a_run_that_was_cancelled_before_its_list_was_made_anew_can_be_cleared() {
    let (store, _) = fresh_store().await;
    let dag = list("list");
    publish(&store, &dag).await;
    let run = trigger(&store, &dag).await;
    let worker = register(&store, "one").await;
    run_all(&store, worker, &[1, 2], succeeds).await;
    for items in [vec![1, 2], vec![1, 2, 3], vec![1]] {
        store
            .clear(clear(run, &[], ClearScope::Only))
            .await
            .unwrap();
        store.cancel_run(run, "ada").await.unwrap();
        nothing_is_wrong(&store).await;
        store
            .clear(clear(run, &[], ClearScope::Only))
            .await
            .unwrap();
        let ran = run_all(&store, worker, &items, succeeds).await;
        assert_eq!(ran.iter().filter(|id| *id == "each").count(), items.len());
        assert_eq!(run_state(&store, run).await, RunState::Success);
        nothing_is_wrong(&store).await;
    }
}

#[tokio::test]
async fn a_list_is_made_anew_when_what_is_above_ran_again_alone() {
    let (store, _) = fresh_store().await;
    let dag = list("list");
    publish(&store, &dag).await;
    let run = trigger(&store, &dag).await;
    let worker = register(&store, "one").await;
    run_all(&store, worker, &[1], succeeds).await;
    for scope in [ClearScope::Only, ClearScope::WithDownstream] {
        // Its items wait already when what is above is cleared, or the other way round.
        for chosen in [["above", "each"], ["each", "above"]] {
            for one in chosen {
                match store.clear(clear(run, &[one], scope)).await {
                    // The first has taken it along.
                    Ok(_) | Err(Error::NothingToClear { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            let ran = run_all(&store, worker, &[1, 2], succeeds).await;
            let items = ran.iter().filter(|id| *id == "each").count();
            // Items that were cleared first are queued by then, and left alone.
            let is_anew = chosen[0] == "above";
            assert_eq!(items, if is_anew { 2 } else { 1 }, "{scope:?} {chosen:?}");
            nothing_is_wrong(&store).await;
            store
                .clear(clear(run, &[], ClearScope::Only))
                .await
                .unwrap();
            run_all(&store, worker, &[1], succeeds).await;
        }
    }
}

#[tokio::test]
async fn what_an_item_has_frozen_is_not_another_ones() {
    let (store, _) = fresh_store().await;
    let dag = list("list");
    publish(&store, &dag).await;
    let run = trigger(&store, &dag).await;
    let worker = register(&store, "one").await;
    run_all(&store, worker, &[10, 20, 30], succeeds).await;
    sqlx::query(
        "insert into frozen (instance_id, name, value)
            select instance_id, 'plan', to_jsonb(map_index) from task_instance where ordinal = 1",
    )
    .execute(&store.engine)
    .await
    .unwrap();
    store
        .clear(clear(run, &[], ClearScope::Only))
        .await
        .unwrap();
    run_all(&store, worker, &[10, 30, 40], succeeds).await;
    let kept = number(
        &store,
        "select coalesce(sum(map_index + 1), 0)::bigint from frozen join task_instance using (instance_id)",
    )
    .await;
    assert_eq!(kept, 1, "the first item is what it was, the others are not");
}

#[tokio::test]
async fn items_are_queued_no_longer_than_their_task_may_be() {
    let (store, _) = fresh_store().await;
    let limited = change(list("list"), "each", |task| {
        task.queue_timeout = Some(std::time::Duration::from_secs(60));
    });
    publish(&store, &limited).await;
    trigger(&store, &limited).await;
    let worker = register(&store, "one").await;
    let above = claim(&store, worker, 1).await.pop().unwrap();
    store.settle(&[ended(above, success())]).await.unwrap();
    let each = claim(&store, worker, 1).await.pop().unwrap();
    let settled = store
        .settle(&[ended(each, expanded(&[1, 2, 3]))])
        .await
        .unwrap();
    assert!(
        settled.effects.deadline,
        "somebody has to look when it is over"
    );
    let expiring = number(
        &store,
        "select count(*) from ready where expires_at is not null",
    )
    .await;
    assert_eq!(expiring, 3);
}

#[tokio::test]
async fn work_that_is_cleared_waits_for_its_setup_and_goes_on() {
    let (store, _) = fresh_store().await;
    let cluster = dag(
        "cluster",
        &[
            ("create", &[]),
            ("load", &["create"]),
            ("compact", &["load"]),
            ("delete", &["compact"]),
        ],
    );
    let cluster = change(cluster, "create", |task| task.flow.setup = true);
    let cluster = change(cluster, "delete", |task| {
        task.flow.teardown = true;
        task.allow_failure = true;
    });
    publish(&store, &cluster).await;
    let run = trigger(&store, &cluster).await;
    let worker = register(&store, "one").await;
    run_all(&store, worker, &[], fails("compact")).await;
    assert_eq!(run_state(&store, run).await, RunState::Failed);
    let failed = ClearRequest {
        selection: ClearSelection::Failed,
        ..clear(run, &[], ClearScope::WithDownstream)
    };
    store.clear(failed.clone()).await.unwrap();
    let ran = run_all(&store, worker, &[], fails("compact")).await;
    assert_eq!(ran, ["create", "compact", "delete"]);
    nothing_is_wrong(&store).await;

    // A setup that fails reaches them as well.
    store.clear(failed).await.unwrap();
    let ran = run_all(&store, worker, &[], fails("create")).await;
    assert_eq!(ran, ["create"]);
    assert_eq!(run_state(&store, run).await, RunState::Failed);
    let found = states(&store, run).await;
    assert_eq!(
        (found["compact"], found["delete"]),
        (TaskState::UpstreamFailed, TaskState::UpstreamFailed)
    );
    nothing_is_wrong(&store).await;
}

fn day(number: u32) -> DateTime<Utc> {
    format!("2026-01-{number:02}T00:00:00Z").parse().unwrap()
}

async fn run_of(store: &Store, dag: &Dag, kind: RunKind, number: u32) -> RunId {
    store
        .trigger(NewRun {
            dag_id: dag.id.clone(),
            kind,
            logical_date: Some(day(number)),
            params: Params::new(),
            triggered_by: "test".to_owned(),
        })
        .await
        .unwrap()
}

fn daily() -> Dag {
    change(dag("daily", &[("load", &[])]), "load", |task| {
        task.flow.depends_on_previous = true;
    })
}

/// Takes notes until none is left.
async fn let_go_on(store: &Store) {
    while store.take_nudges().await.unwrap().deadline {}
}

#[tokio::test]
async fn a_run_that_never_started_is_nobodys_run_before() {
    let (store, _) = fresh_store().await;
    let mut daily = daily();
    daily.max_active_runs = 1;
    publish(&store, &daily).await;
    let first = run_of(&store, &daily, RunKind::Manual, 1).await;
    let second = run_of(&store, &daily, RunKind::Manual, 2).await;
    let third = run_of(&store, &daily, RunKind::Manual, 3).await;
    store.cancel_run(second, "ada").await.unwrap();
    let worker = register(&store, "one").await;
    for run in [first, third] {
        let_go_on(&store).await;
        let ran = run_all(&store, worker, &[], succeeds).await;
        assert_eq!(
            (ran.len(), run_state(&store, run).await),
            (1, RunState::Success)
        );
    }
}

#[tokio::test]
async fn all_runs_of_a_date_go_on_when_the_one_before_does() {
    let (store, _) = fresh_store().await;
    let daily = daily();
    publish(&store, &daily).await;
    let first = run_of(&store, &daily, RunKind::Manual, 1).await;
    let by_hand = run_of(&store, &daily, RunKind::Manual, 2).await;
    let scheduled = run_of(&store, &daily, RunKind::Scheduled, 2).await;
    let worker = register(&store, "one").await;
    let_go_on(&store).await;
    assert_eq!(run_all(&store, worker, &[], succeeds).await.len(), 1);
    assert_eq!(run_state(&store, first).await, RunState::Success);
    let_go_on(&store).await;
    assert_eq!(run_all(&store, worker, &[], succeeds).await.len(), 2);
    for run in [by_hand, scheduled] {
        assert_eq!(run_state(&store, run).await, RunState::Success);
    }
}

#[tokio::test]
async fn what_is_deleted_holds_no_run_back() {
    let (store, _) = fresh_store().await;
    let daily = daily();
    publish(&store, &daily).await;
    let first = run_of(&store, &daily, RunKind::Manual, 1).await;
    let second = run_of(&store, &daily, RunKind::Manual, 2).await;
    let worker = register(&store, "one").await;
    let_go_on(&store).await;
    run_all(&store, worker, &[], fails("load")).await;
    let_go_on(&store).await;
    assert!(run_all(&store, worker, &[], succeeds).await.is_empty());
    sqlx::query_file!("src/store/queries/delete_old_runs.sql", &[first.0][..])
        .fetch_one(&store.engine)
        .await
        .unwrap();
    let_go_on(&store).await;
    assert_eq!(run_all(&store, worker, &[], succeeds).await.len(), 1);
    assert_eq!(run_state(&store, second).await, RunState::Success);
}

#[tokio::test]
async fn a_run_that_has_not_begun_moves_to_a_version_with_another_task() {
    let (store, _) = fresh_store().await;
    let mut line = dag("line", &[("a", &[])]);
    line.max_active_runs = 1;
    publish(&store, &line).await;
    trigger(&store, &line).await;
    let queued = trigger(&store, &line).await;
    let mut longer = dag("line", &[("a", &[]), ("b", &["a"])]);
    longer.max_active_runs = 1;
    publish(&store, &longer).await;
    let request = ClearRequest {
        version: ClearVersion::Latest,
        ..clear(queued, &[], ClearScope::Only)
    };
    store.clear(request).await.unwrap();
    assert_eq!(run_state(&store, queued).await, RunState::Queued);
    let worker = register(&store, "one").await;
    assert_eq!(
        run_all(&store, worker, &[], succeeds).await,
        ["a", "a", "b"]
    );
    assert_eq!(run_state(&store, queued).await, RunState::Success);
}

#[tokio::test]
async fn a_run_without_a_time_limit_has_none_left_from_before() {
    let (store, _) = fresh_store().await;
    let mut limited = dag("limited", &[("a", &[])]);
    limited.timeout = Some(std::time::Duration::from_secs(3600));
    publish(&store, &limited).await;
    let run = trigger(&store, &limited).await;
    let worker = register(&store, "one").await;
    run_all(&store, worker, &[], fails("a")).await;
    limited.timeout = None;
    publish(&store, &limited).await;
    let request = ClearRequest {
        version: ClearVersion::Latest,
        ..clear(run, &[], ClearScope::Only)
    };
    store.clear(request).await.unwrap();
    assert_eq!(number(&store, "select count(*) from run_limit").await, 0);
}
