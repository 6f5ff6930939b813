//! Dataset-aware runs: what completes a set, once, whoever finishes when.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use serde_json::Value;

use super::*;
use crate::model::{Dag, DatasetExpression, DatasetName, RunKind};

fn name(text: &str) -> DatasetName {
    DatasetName::new(text).unwrap()
}

/// A DAG whose tasks each update the dataset of their own name.
fn producer(id: &str, tasks: &[&str]) -> Dag {
    let tasks: Vec<(&str, &[&str])> = tasks.iter().map(|task| (*task, &[] as &[&str])).collect();
    let mut made = dag(id, &tasks);
    for task in &mut made.tasks {
        task.outlets = vec![name(task.id.as_str())];
    }
    made
}

/// A DAG of one task that waits for datasets.
fn consumer(id: &str, set: Value) -> Dag {
    let mut made = dag(id, &[("use", &[])]);
    made.datasets = Some(serde_json::from_value::<DatasetExpression>(set).unwrap());
    made
}

/// The runs that datasets made, oldest first.
async fn runs_of(store: &Store, dag: &Dag) -> Vec<RunRow> {
    let filter = RunFilter {
        dag_id: Some(dag.id.clone()),
        limit: 500,
        ..RunFilter::default()
    };
    let mut runs = store.runs(&filter).await.unwrap();
    runs.retain(|run| run.kind == RunKind::Dataset);
    runs.reverse();
    runs
}

/// Runs every task of a producer in a run of its own, one after the other, in the order given.
async fn update(store: &Store, producer: &Dag, order: &[&str]) {
    trigger(store, producer).await;
    let worker = register(store, "producer").await;
    let mut claimed = claim_of(store, worker, producer).await;
    for task in order {
        let position = claimed
            .iter()
            .position(|one| one.task().id.as_str() == *task)
            .unwrap();
        let one = claimed.remove(position);
        let output = json!({ "by": one.execution.run_id });
        settle_all(store, vec![ended(one, Ending::Success { output })]).await;
    }
    store.resign(worker).await.unwrap();
}

/// Claims all there is and gives back what is of another DAG.
async fn claim_of(store: &Store, worker: WorkerId, dag: &Dag) -> Vec<Claimed> {
    let (mine, others): (Vec<_>, Vec<_>) = claim(store, worker, 100)
        .await
        .into_iter()
        .partition(|one| one.dag_id == dag.id);
    let others: Vec<Ended> = others
        .into_iter()
        .map(|one| ended(one, Ending::GivenBack))
        .collect();
    settle_all(store, others).await;
    mine
}

async fn settle_all(store: &Store, batch: Vec<Ended>) {
    let settled = store.settle(&batch).await.unwrap();
    assert!(settled.refused.is_empty());
}

/// No event is lost: each waits for a DAG, or made one run of it.
async fn assert_counted_once(store: &Store, consumer: &Dag) {
    let wrong: i64 = sqlx::query_scalar(
        "select count(*) from dataset_event e join dataset_consumer c on c.dataset = e.dataset and c.dag_id = $1
        where (select count(*) from dataset_wait w where w.dag_id = $1 and w.event_id = e.event_id)
            + (select count(*) from run_dataset_event m join run r on r.run_id = m.run_id
                where r.dag_id = $1 and m.event_id = e.event_id) <> 1",
    )
    .bind(consumer.id.as_str())
    .fetch_one(&store.people)
    .await
    .unwrap();
    assert_eq!(wrong, 0, "every event counts once");
}

#[tokio::test]
async fn a_set_makes_one_run_when_its_last_member_comes() {
    let (store, _) = fresh_store().await;
    let (pair, both) = (
        producer("pair", &["a", "b"]),
        consumer("both", json!({ "all": ["a", "b"] })),
    );
    publish(&store, &pair).await;
    publish(&store, &both).await;
    update(&store, &pair, &["a"]).await;
    assert!(
        runs_of(&store, &both).await.is_empty(),
        "`b` is still to come"
    );
    let set = store.dataset_sets(Some(&both.id)).await.unwrap().remove(0);
    let come: Vec<i64> = set.members.iter().map(|member| member.events).collect();
    assert_eq!((set.words.as_str(), come), ("a and b", vec![1, 0]));

    update(&store, &pair, &["a", "b"]).await;
    let runs = runs_of(&store, &both).await;
    assert_eq!(runs.len(), 1);
    let events = store.events_of_run(runs[0].run_id).await.unwrap();
    let datasets: Vec<&str> = events.iter().map(|event| event.dataset.as_str()).collect();
    assert_eq!(datasets, ["b", "a", "a"], "newest first");
    assert_eq!(runs[0].logical_date, events[0].at);
    assert_eq!(
        (runs[0].data_interval_start, runs[0].data_interval_end),
        (events[2].at, events[0].at)
    );
    assert_eq!(events[0].extra, json!({ "by": events[0].run_id.unwrap() }));
    assert_eq!(events[0].task_id.as_ref().unwrap().as_str(), "b");
    assert_eq!(runs[0].state, RunState::Running, "it has begun");

    update(&store, &pair, &["b", "a"]).await;
    let runs = runs_of(&store, &both).await;
    assert_eq!(runs.len(), 2);
    assert!(runs[0].logical_date < runs[1].logical_date);
    assert_eq!(store.events_of_run(runs[1].run_id).await.unwrap().len(), 2);
    assert_counted_once(&store, &both).await;
    check_invariants(&store).await;
}

#[tokio::test]
async fn members_that_come_in_one_batch_make_one_run_of_each_dag_that_waits() {
    let (store, _) = fresh_store().await;
    let pair = producer("pair", &["a", "b"]);
    let both = consumer("both", json!({ "all": ["a", "b"] }));
    let either = consumer("either", json!({ "any": ["a", { "all": ["b", "c"] }] }));
    for dag in [&pair, &both, &either] {
        publish(&store, dag).await;
    }
    trigger(&store, &pair).await;
    let worker = register(&store, "one").await;
    let batch = claim(&store, worker, 8)
        .await
        .into_iter()
        .map(|one| ended(one, success()))
        .collect();
    settle_all(&store, batch).await;
    for dag in [&both, &either] {
        let runs = runs_of(&store, dag).await;
        assert_eq!(runs.len(), 1, "{}", dag.id);
        let events = store.events_of_run(runs[0].run_id).await.unwrap();
        assert_eq!(events.len(), 2, "all that waits is taken");
        assert_counted_once(&store, dag).await;
    }
}

#[tokio::test]
async fn two_finishers_of_two_members_make_exactly_one_run() {
    let (store, _) = fresh_store().await;
    let (one, two) = (producer("one", &["a"]), producer("two", &["b"]));
    let both = consumer("both", json!({ "all": ["a", "b"] }));
    for dag in [&one, &two, &both] {
        publish(&store, dag).await;
    }
    for round in 1..=30 {
        let mut halves = Vec::new();
        for dag in [&one, &two] {
            trigger(&store, dag).await;
            let worker = register(&store, "half").await;
            let claimed = claim_of(&store, worker, dag).await;
            assert_eq!(claimed.len(), 1);
            halves.push(
                claimed
                    .into_iter()
                    .map(|one| ended(one, success()))
                    .collect::<Vec<_>>(),
            );
        }
        let (first, second) = tokio::join!(store.settle(&halves[0]), store.settle(&halves[1]));
        assert!(first.unwrap().refused.is_empty() && second.unwrap().refused.is_empty());
        assert_eq!(runs_of(&store, &both).await.len(), round, "round {round}");
    }
    assert_counted_once(&store, &both).await;
    check_invariants(&store).await;
}

#[tokio::test]
async fn whoever_does_what_at_the_same_time_nobody_waits_in_a_circle() {
    let (store, _) = fresh_store().await;
    // Names are such that DAGs are locked in another order than they are touched, and gates stand in between.
    let mut producers = [
        producer("z", &["a", "b"]),
        producer("m", &["b", "c"]),
        producer("a", &["c", "a"]),
    ];
    for dag in &mut producers {
        dag.max_active_tasks = Some(1);
        dag.max_active_runs = 2;
    }
    let mut relay = consumer("k", json!({ "any": ["a", "c"] }));
    relay.tasks[0].outlets = vec![name("b")];
    relay.max_active_runs = 1;
    let mut both = consumer("b", json!({ "all": ["a", "b"] }));
    both.max_active_tasks = Some(1);
    for dag in producers.iter().chain([&relay, &both]) {
        publish(&store, dag).await;
    }
    let workers = [
        register(&store, "one").await,
        register(&store, "two").await,
        register(&store, "three").await,
    ];
    let settled = AtomicUsize::new(0);
    for round in 0..25 {
        for dag in &producers {
            trigger(&store, dag).await;
        }
        let work = workers.iter().map(async |worker| {
            for _ in 0..4 {
                let batch: Vec<Ended> = claim(&store, *worker, 3)
                    .await
                    .into_iter()
                    .map(|one| ended(one, success()))
                    .collect();
                settled.fetch_add(batch.len(), Ordering::Relaxed);
                settle_all(&store, batch).await;
            }
        });
        let mut changed = both.clone();
        changed.description = format!("round {round}");
        let others = async {
            for paused in [Paused::Paused, Paused::Active] {
                store.set_paused(&both.id, paused, "ada").await.unwrap();
                store
                    .set_paused(&producers[0].id, paused, "ada")
                    .await
                    .unwrap();
                for dataset in ["a", "b"] {
                    store
                        .push_dataset_event(&name(dataset), DatasetExtra::default(), "ada")
                        .await
                        .unwrap();
                }
            }
            publish(&store, &changed).await;
        };
        tokio::join!(join_all(work), others);
        check_invariants(&store).await;
    }
    assert!(settled.into_inner() > 100);
    for dag in [&relay, &both] {
        assert!(runs_of(&store, dag).await.len() > 10);
        assert_counted_once(&store, dag).await;
    }
}

#[tokio::test]
async fn events_of_a_paused_dag_wait_and_make_one_run() {
    let (store, _) = fresh_store().await;
    let (single, waits) = (producer("single", &["a"]), consumer("waits", json!("a")));
    publish(&store, &single).await;
    publish(&store, &waits).await;
    store
        .set_paused(&waits.id, Paused::Paused, "ada")
        .await
        .unwrap();
    for _ in 0..3 {
        update(&store, &single, &["a"]).await;
    }
    assert!(runs_of(&store, &waits).await.is_empty());
    store
        .set_paused(&waits.id, Paused::Active, "ada")
        .await
        .unwrap();
    let runs = runs_of(&store, &waits).await;
    assert_eq!(runs.len(), 1);
    assert_eq!(store.events_of_run(runs[0].run_id).await.unwrap().len(), 3);
    store
        .set_paused(&waits.id, Paused::Active, "ada")
        .await
        .unwrap();
    assert_eq!(
        runs_of(&store, &waits).await.len(),
        1,
        "nothing waits any more"
    );
}

#[tokio::test]
async fn a_set_that_changes_begins_to_count_anew() {
    let (store, _) = fresh_store().await;
    let pair = producer("pair", &["a", "b"]);
    publish(&store, &pair).await;
    update(&store, &pair, &["a"]).await;
    let mut both = consumer("both", json!({ "all": ["a", "b"] }));
    publish(&store, &both).await;
    update(&store, &pair, &["b"]).await;
    assert!(
        runs_of(&store, &both).await.is_empty(),
        "what was before it does not count"
    );

    both.description = "the same set".to_owned();
    publish(&store, &both).await;
    update(&store, &pair, &["a"]).await;
    assert_eq!(runs_of(&store, &both).await.len(), 1, "`b` had been kept");

    update(&store, &pair, &["a"]).await;
    both.datasets = consumer("both", json!({ "any": ["a", "b"] })).datasets;
    publish(&store, &both).await;
    assert_eq!(
        runs_of(&store, &both).await.len(),
        1,
        "a change fires nothing"
    );
    update(&store, &pair, &["b"]).await;
    let runs = runs_of(&store, &both).await;
    assert_eq!(runs.len(), 2);
    let events = store.events_of_run(runs[1].run_id).await.unwrap();
    assert_eq!(events.len(), 1, "the event of the old set is forgotten");

    store
        .retire_missing(std::slice::from_ref(&pair.id))
        .await
        .unwrap();
    update(&store, &pair, &["a"]).await;
    publish(&store, &both).await;
    assert_eq!(
        runs_of(&store, &both).await.len(),
        2,
        "a DAG without a file waits for nothing"
    );
    update(&store, &pair, &["a"]).await;
    assert_eq!(
        runs_of(&store, &both).await.len(),
        3,
        "and once it is back it does again"
    );
}

#[tokio::test]
async fn only_a_success_is_an_event_and_each_one_is() {
    let (store, _) = fresh_store().await;
    let mut single = producer("single", &["a"]);
    single.tasks[0].retries = 1;
    let waits = consumer("waits", json!("a"));
    publish(&store, &single).await;
    publish(&store, &waits).await;
    let worker = register(&store, "one").await;
    let events = async || number(&store, "select count(*) from dataset_event").await;
    let endings = [
        Ending::Skipped {
            reason: "nothing to do".to_owned(),
        },
        Ending::Failed(Failure::permanent("broken")),
        Ending::Failed(Failure::retryable("again")),
    ];
    for ending in endings {
        trigger(&store, &single).await;
        let one = claim_of(&store, worker, &single).await.remove(0);
        settle_all(&store, vec![ended(one, ending)]).await;
        assert_eq!(events().await, 0);
    }

    let run = trigger(&store, &single).await;
    let one = claim_of(&store, worker, &single).await.remove(0);
    let batch = [ended(one, success())];
    store.settle(&batch).await.unwrap();
    store.settle(&batch).await.unwrap();
    assert_eq!(events().await, 1, "a lost answer repeats no event");
    assert_eq!(runs_of(&store, &waits).await.len(), 1);

    let clear = ClearRequest {
        run_id: run,
        selection: ClearSelection::WholeRun,
        scope: ClearScope::Only,
        version: crate::store::ClearVersion::Same,
        actor: "ada".to_owned(),
    };
    store.clear(clear).await.unwrap();
    let one = claim_of(&store, worker, &single).await.remove(0);
    settle_all(&store, vec![ended(one, success())]).await;
    assert_eq!(events().await, 2, "a task that runs again updates it again");
    assert_eq!(runs_of(&store, &waits).await.len(), 2);
}

#[tokio::test]
async fn an_event_can_be_pushed_for_a_dataset_that_somebody_names() {
    let (store, _) = fresh_store().await;
    let waits = consumer("waits", json!({ "all": ["s3://lake/pins", "users"] }));
    publish(&store, &waits).await;
    let push = async |dataset: &str, extra: Value| {
        let extra = DatasetExtra::new(extra.as_object().unwrap().clone()).unwrap();
        store.push_dataset_event(&name(dataset), extra, "ada").await
    };
    let refused = push("s3://lake/pin", json!({})).await.unwrap_err();
    assert_eq!(refused.hint().unwrap(), "did you mean `s3://lake/pins`?");
    let first = push("users", json!({ "rows": 3 })).await.unwrap();
    assert!(first.runs.is_empty());
    let second = push("s3://lake/pins", json!({})).await.unwrap();
    let runs = runs_of(&store, &waits).await;
    assert_eq!(second.runs, [runs[0].run_id]);
    let seen = store.triggering_datasets(runs[0].run_id).await.unwrap();
    assert_eq!(seen["users"][0]["extra"], json!({ "rows": 3 }));
    let listed = store.datasets().await.unwrap();
    assert_eq!(listed.len(), 2);
    let last = listed[1].last_event.as_ref().unwrap();
    assert_eq!(
        (last.event_id, last.pushed_by.as_deref()),
        (first.event_id, Some("ada"))
    );
    assert_eq!(last.runs, second.runs);
    let page = store
        .dataset_events(None, Some(second.event_id), 10)
        .await
        .unwrap();
    assert_eq!(page.len(), 1);
}

#[tokio::test]
async fn a_large_output_stays_behind_and_says_so() {
    let (store, _) = fresh_store().await;
    let (single, waits) = (producer("single", &["a"]), consumer("waits", json!("a")));
    publish(&store, &single).await;
    publish(&store, &waits).await;
    trigger(&store, &single).await;
    let worker = register(&store, "one").await;
    let one = claim(&store, worker, 1).await.remove(0);
    let output = json!({ "large": "x".repeat(DatasetExtra::LARGEST) });
    settle_all(&store, vec![ended(one, Ending::Success { output })]).await;
    let event = store.dataset_events(None, None, 1).await.unwrap().remove(0);
    let says = event.extra["left_out"].as_str().unwrap();
    assert!(says.contains("an event carries at most 65536"), "{says}");
}

#[tokio::test]
async fn old_events_go_unless_they_wait_or_their_run_is_there() {
    let (store, _) = fresh_store().await;
    let single = producer("single", &["a", "b"]);
    let waits = consumer("waits", json!("a"));
    let lacks = consumer("lacks", json!({ "all": ["b", "c"] }));
    let mut nobody = producer("nobody", &["d"]);
    nobody.max_active_runs = 1;
    for dag in [&single, &waits, &lacks, &nobody] {
        publish(&store, dag).await;
    }
    update(&store, &single, &["a", "b"]).await;
    update(&store, &nobody, &["d"]).await;
    sql(
        &store,
        "update dataset_event set at = now() - interval '100 days'".to_owned(),
    )
    .await;
    let keep = Retention {
        runs: Keep::For(Duration::from_secs(90 * 86_400)),
        keep: 30,
    };
    for (prune, gone) in [(Prune::Count, 1), (Prune::Remove, 1), (Prune::Remove, 0)] {
        let mut pass = store
            .begin_pass(keep, prune, TimeDelta::zero())
            .await
            .unwrap();
        let mut removed = Removed::default();
        while let Some(step) = pass.step().await.unwrap() {
            removed += step;
        }
        assert_eq!(removed.dataset_events, gone, "{prune:?}");
    }
    let left = store.dataset_events(None, None, 10).await.unwrap();
    let left: Vec<&str> = left.iter().map(|event| event.dataset.as_str()).collect();
    assert_eq!(left, ["b", "a"]);
}
