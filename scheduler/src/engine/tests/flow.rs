//! Branches, setups, items of a list and the run before, by engines over a real Postgres.

use std::sync::Mutex;

use serde_json::{Map, Value};

use super::*;
use crate::{
    model::{Concurrency, Dag, Foreach, RunId, Task, TaskId, TriggerRule, flow::BRANCH},
    store::{Error as StoreError, InstanceRow, MarkRequest, MarkSelection, MarkedAs},
};

fn foreach(list: Value) -> impl FnOnce(&mut Task) {
    |task| {
        task.flow.foreach = Some(Foreach {
            list,
            item_name: Some("number {{ item }}".to_owned()),
            max_active_items: None,
        });
        task.with.insert("item".to_owned(), json!("{{ item }}"));
    }
}

async fn nothing_is_wrong(store: &Store) {
    let checked = store.check().await.unwrap();
    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
}

async fn run_through(store: &Store, engine: &Engine, dag: &Dag) -> (RunId, RunState) {
    let run = trigger(store, dag).await;
    engine.bell().ring();
    (run, run_end(store, engine.changes(), run).await)
}

async fn items(store: &Store, run: RunId, task: &str) -> Vec<InstanceRow> {
    store
        .instances(run)
        .await
        .unwrap()
        .into_iter()
        .filter(|row| row.task_id.as_str() == task)
        .collect()
}

#[tokio::test]
async fn a_branch_chooses_and_the_others_are_skipped() {
    let (store, _) = fresh_store().await;
    let tree = dag(
        "tree",
        &[
            ("choose", &[]),
            ("small", &["choose"]),
            ("large", &["choose"]),
            ("never", &["choose"]),
            ("join", &["small", "large", "never"]),
        ],
    );
    let tree = change(tree, "choose", |task| task.kind = BRANCH.to_owned());
    let tree = change(tree, "never", |task| {
        task.trigger_rule = TriggerRule::Always
    });
    let tree = change(tree, "join", |task| {
        task.trigger_rule = TriggerRule::NoneFailedMinOneSuccess;
    });
    publish(&store, &tree).await;
    let chosen = Arc::new(Mutex::new(json!(["small"])));
    let choosing = Arc::clone(&chosen);
    let registry = testing::kinds_named(&["test", BRANCH], move |context: Context, _| {
        let chosen = choosing.lock().unwrap().clone();
        async move {
            let output = match context.instance.task_id.as_str() {
                "choose" => json!({ "chosen": chosen }),
                _other => json!({}),
            };
            Ok(Outcome::Success { output })
        }
    });
    let engine = start(&store, registry).await;
    let (run, state) = run_through(&store, &engine, &tree).await;
    let found = states(&store, run).await;
    assert_eq!(state, RunState::Success, "{found:?}");
    assert_eq!(found["small"], TaskState::Success);
    assert_eq!(found["large"], TaskState::Skipped);
    assert_eq!(found["never"], TaskState::Skipped, "whatever its rule");
    assert_eq!(found["join"], TaskState::Success);

    *chosen.lock().unwrap() = json!(["join"]);
    let (run, state) = run_through(&store, &engine, &tree).await;
    assert_eq!(state, RunState::Failed);
    let choose = &items(&store, run, "choose").await[0];
    assert_eq!(choose.state, TaskState::Failed);
    assert!(choose.reason.as_ref().unwrap().contains("`join`"));
    nothing_is_wrong(&store).await;
    finish(engine).await;
}

#[tokio::test]
async fn a_teardown_runs_after_failed_work_and_not_after_a_failed_setup() {
    let (store, _) = fresh_store().await;
    let cluster = dag(
        "cluster",
        &[
            ("create", &[]),
            ("work", &["create"]),
            ("delete", &["work"]),
        ],
    );
    let cluster = change(cluster, "create", |task| task.flow.setup = true);
    let cluster = change(cluster, "delete", |task| {
        task.flow.teardown = true;
        task.allow_failure = true;
    });
    publish(&store, &cluster).await;
    let fails = Arc::new(Mutex::new("work"));
    let failing = Arc::clone(&fails);
    let registry = kinds(move |context: Context, _| {
        let fails = context.instance.task_id == *failing.lock().unwrap();
        async move {
            match fails {
                true => Err(Failure::permanent("as the test says")),
                false => Ok(Outcome::success()),
            }
        }
    });
    let engine = start(&store, registry).await;
    let (run, state) = run_through(&store, &engine, &cluster).await;
    let found = states(&store, run).await;
    assert_eq!(
        (state, found["delete"]),
        (RunState::Failed, TaskState::Success)
    );
    *fails.lock().unwrap() = "create";
    let (run, state) = run_through(&store, &engine, &cluster).await;
    let found = states(&store, run).await;
    assert_eq!(
        (state, found["work"], found["delete"]),
        (
            RunState::Failed,
            TaskState::UpstreamFailed,
            TaskState::UpstreamFailed
        )
    );
    *fails.lock().unwrap() = "delete";
    let (_, state) = run_through(&store, &engine, &cluster).await;
    assert_eq!(
        state,
        RunState::Success,
        "a teardown's failure is no reason"
    );
    nothing_is_wrong(&store).await;
    finish(engine).await;
}

/// Answers twice its item, fails the items that it is told to, and adds up what is above.
fn arithmetic(failing: Arc<Mutex<Vec<i64>>>) -> Registry {
    kinds(move |_, with: Map<String, Value>| {
        let item = with.get("item").and_then(Value::as_i64);
        let fails = item.is_some_and(|item| failing.lock().unwrap().contains(&item));
        async move {
            if fails {
                return Err(Failure::retryable("as the test says"));
            }
            let output = match (item, with.get("all")) {
                (Some(item), _) => json!({ "double": item * 2 }),
                (None, Some(Value::Array(all))) => {
                    json!({ "sum": all.iter().map(|one| one["double"].as_i64().unwrap()).sum::<i64>() })
                }
                (None, _) => json!({ "list": [1, 2, 3] }),
            };
            Ok(Outcome::Success { output })
        }
    })
}

fn mapped(list: Value) -> Dag {
    let mapped = dag(
        "mapped",
        &[("list", &[]), ("each", &["list"]), ("sum", &["each"])],
    );
    let mapped = change(mapped, "each", foreach(list));
    change(mapped, "sum", |task| {
        task.with
            .insert("all".to_owned(), json!("{{ outputs.each }}"));
    })
}

#[tokio::test]
async fn hundreds_of_items_run_and_the_task_below_reads_what_they_answered() {
    let (store, _) = fresh_store().await;
    let numbers: Vec<i64> = (0..300).collect();
    let mapped = mapped(json!(numbers));
    publish(&store, &mapped).await;
    let engine = start(&store, arithmetic(Arc::default())).await;
    let (run, state) = run_through(&store, &engine, &mapped).await;
    assert_eq!(state, RunState::Success);
    let each = items(&store, run, "each").await;
    assert_eq!(each.len(), 300);
    assert_eq!(each[7].map_index, 7);
    assert_eq!(each[7].item_name.as_deref(), Some("number 7"));
    assert!(
        each.iter()
            .all(|row| (row.state, row.tries) == (TaskState::Success, 1))
    );
    let sum = store
        .output(items(&store, run, "sum").await[0].instance_id)
        .await
        .unwrap();
    assert_eq!(sum, Some(json!({ "sum": 300 * 299 })));
    nothing_is_wrong(&store).await;
    finish(engine).await;
}

#[tokio::test]
async fn an_item_that_fails_is_tried_again_and_fails_alone() {
    let (store, _) = fresh_store().await;
    let mapped = mapped(json!("{{ outputs.list.list }}"));
    let mapped = change(mapped, "each", |task| {
        task.retries = 1;
        task.retry_delay = Duration::ZERO;
    });
    publish(&store, &mapped).await;
    let failing = Arc::new(Mutex::new(vec![2]));
    let engine = start(&store, arithmetic(Arc::clone(&failing))).await;
    let (run, state) = run_through(&store, &engine, &mapped).await;
    assert_eq!(state, RunState::Failed);
    let each = items(&store, run, "each").await;
    let found: Vec<_> = each.iter().map(|row| (row.state, row.tries)).collect();
    assert_eq!(
        found,
        [
            (TaskState::Success, 1),
            (TaskState::Failed, 2),
            (TaskState::Success, 1)
        ]
    );
    assert_eq!(states(&store, run).await["sum"], TaskState::UpstreamFailed);

    failing.lock().unwrap().clear();
    store
        .clear(ClearRequest {
            run_id: run,
            selection: ClearSelection::Failed,
            scope: ClearScope::WithDownstream,
            version: crate::store::ClearVersion::Same,
            actor: "ada".to_owned(),
        })
        .await
        .unwrap();
    engine.bell().ring();
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Success
    );
    nothing_is_wrong(&store).await;
    finish(engine).await;
}

#[tokio::test]
async fn one_item_is_marked_and_what_is_below_goes_on() {
    let (store, _) = fresh_store().await;
    let mapped = mapped(json!([1, 2, 3]));
    publish(&store, &mapped).await;
    let registry = kinds(|_, with: Map<String, Value>| async move {
        match with.get("item").and_then(Value::as_i64) {
            Some(2 | 3) => Err(Failure::permanent("bad luck")),
            Some(_) | None => Ok(Outcome::success()),
        }
    });
    let engine = start(&store, registry).await;
    let (run, state) = run_through(&store, &engine, &mapped).await;
    assert_eq!(state, RunState::Failed);
    let each = TaskId::new("each").unwrap();
    let mark = |map_index| MarkRequest {
        run_id: run,
        selection: MarkSelection::Item {
            task: each.clone(),
            map_index,
        },
        marked: MarkedAs::Success,
        actor: "ada".to_owned(),
    };
    let states_of_items = async || -> Vec<TaskState> {
        let rows = items(&store, run, "each").await;
        rows.iter().map(|row| row.state).collect()
    };
    store.mark(mark(1)).await.unwrap();
    assert_eq!(
        states_of_items().await,
        [TaskState::Success, TaskState::Success, TaskState::Failed]
    );
    let none = store.mark(mark(3)).await.unwrap_err();
    assert!(
        matches!(none, StoreError::UnknownInstance { map_index: 3, .. }),
        "{none}"
    );
    store.mark(mark(2)).await.unwrap();
    engine.bell().ring();
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Success
    );
    assert_eq!(states(&store, run).await["sum"], TaskState::Success);
    nothing_is_wrong(&store).await;
    finish(engine).await;
}

#[tokio::test]
async fn a_cleared_list_is_made_anew_longer_or_shorter() {
    let (store, _) = fresh_store().await;
    let mapped = mapped(json!("{{ outputs.list.list }}"));
    publish(&store, &mapped).await;
    let list = Arc::new(Mutex::new(vec![1, 2, 3]));
    let making = Arc::clone(&list);
    let registry = kinds(move |context: Context, with: Map<String, Value>| {
        let list = making.lock().unwrap().clone();
        async move {
            let output = match context.instance.task_id.as_str() {
                "list" => json!({ "list": list }),
                "each" => json!({ "item": with["item"] }),
                _sum => json!({ "all": with["all"] }),
            };
            Ok(Outcome::Success { output })
        }
    });
    let engine = start(&store, registry).await;
    let (run, state) = run_through(&store, &engine, &mapped).await;
    assert_eq!(state, RunState::Success);
    for next in [vec![7], vec![5, 6, 7, 8, 9], vec![], vec![1, 2]] {
        *list.lock().unwrap() = next.clone();
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
        engine.bell().ring();
        assert_eq!(
            run_end(&store, engine.changes(), run).await,
            RunState::Success
        );
        let each = items(&store, run, "each").await;
        if next.is_empty() {
            assert_eq!((each.len(), each[0].state), (1, TaskState::Skipped));
        } else {
            let found: Vec<_> = each.iter().map(|row| (row.map_index, row.state)).collect();
            let expected: Vec<_> = (0..)
                .zip(&next)
                .map(|(at, _)| (at, TaskState::Success))
                .collect();
            assert_eq!(found, expected);
            let all = store
                .output(items(&store, run, "sum").await[0].instance_id)
                .await
                .unwrap()
                .unwrap();
            let all: Vec<_> = all["all"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["item"].as_i64().unwrap())
                .collect();
            assert_eq!(
                all,
                next.iter().map(|one| i64::from(*one)).collect::<Vec<_>>()
            );
        }
        nothing_is_wrong(&store).await;
    }
    finish(engine).await;
}

#[tokio::test]
async fn what_is_no_list_fails_the_task_and_not_the_engine() {
    let (store, _) = fresh_store().await;
    let mapped = mapped(json!("{{ outputs.list }}"));
    publish(&store, &mapped).await;
    let engine = start(&store, arithmetic(Arc::default())).await;
    let (run, state) = run_through(&store, &engine, &mapped).await;
    assert_eq!(state, RunState::Failed);
    let each = items(&store, run, "each").await;
    assert_eq!((each.len(), each[0].state), (1, TaskState::Failed));
    assert_eq!(
        each[0].reason.as_deref(),
        Some("`foreach` gives a table, not a list")
    );
    nothing_is_wrong(&store).await;
    finish(engine).await;
}

#[tokio::test]
async fn items_keep_their_limit_and_a_key_of_their_own() {
    let (store, _) = fresh_store().await;
    let numbers: Vec<i64> = (0..40).collect();
    let mapped = change(mapped(json!(numbers)), "each", |task| {
        if let Some(foreach) = &mut task.flow.foreach {
            foreach.max_active_items = Some(3);
        }
        task.concurrency = Some(Concurrency {
            key: "{{ item % 20 }}".to_owned(),
            limit: 1,
        });
    });
    publish(&store, &mapped).await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let registry = kinds({
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        move |context: Context, with: Map<String, Value>| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            async move {
                if context.instance.task_id != "each" {
                    return Ok(Outcome::success());
                }
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(Outcome::Success {
                    output: json!({ "double": with["item"] }),
                })
            }
        }
    });
    let engine = start(&store, registry).await;
    let (run, _) = run_through(&store, &engine, &mapped).await;
    assert!(most.load(Ordering::SeqCst) <= 3);
    let each = items(&store, run, "each").await;
    assert!(each.len() == 40 && each.iter().all(|row| row.state == TaskState::Success));
    nothing_is_wrong(&store).await;
    finish(engine).await;
}

#[tokio::test]
async fn a_task_waits_for_itself_in_the_run_before() {
    let (store, _) = fresh_store().await;
    let daily = dag("daily", &[("a", &[]), ("b", &["a"]), ("c", &["b"])]);
    let daily = change(daily, "b", |task| task.flow.depends_on_previous = true);
    publish(&store, &daily).await;
    let failing = Arc::new(AtomicUsize::new(1));
    let order = Arc::new(Mutex::new(Vec::new()));
    let registry = kinds({
        let (failing, order) = (Arc::clone(&failing), Arc::clone(&order));
        move |context: Context, _| {
            let is_b = context.instance.task_id == "b";
            let fails = is_b && failing.load(Ordering::SeqCst) == 1;
            if is_b && !fails {
                order.lock().unwrap().push(context.instance.run_id);
            }
            async move {
                match fails {
                    true => Err(Failure::permanent("as the test says")),
                    false => Ok(Outcome::success()),
                }
            }
        }
    });
    let engine = start(&store, registry).await;
    let (first, state) = run_through(&store, &engine, &daily).await;
    assert_eq!(state, RunState::Failed);
    failing.store(0, Ordering::SeqCst);
    let others: Vec<RunId> = [
        trigger(&store, &daily).await,
        trigger(&store, &daily).await,
        trigger(&store, &daily).await,
    ]
    .to_vec();
    let mut changes = engine.changes();
    engine.bell().ring();
    for run in &others {
        while states(&store, *run).await["a"] != TaskState::Success {
            changes.next().await;
        }
        assert_eq!(states(&store, *run).await["b"], TaskState::Waiting);
    }
    nothing_is_wrong(&store).await;
    store
        .clear(ClearRequest {
            run_id: first,
            selection: ClearSelection::Failed,
            scope: ClearScope::Only,
            version: crate::store::ClearVersion::Same,
            actor: "ada".to_owned(),
        })
        .await
        .unwrap();
    engine.bell().ring();
    for run in &others {
        assert_eq!(
            run_end(&store, engine.changes(), *run).await,
            RunState::Success
        );
    }
    let runs: Vec<i64> = [first].iter().chain(&others).map(|run| run.0).collect();
    assert_eq!(*order.lock().unwrap(), runs, "one after the other");
    nothing_is_wrong(&store).await;
    finish(engine).await;
}
