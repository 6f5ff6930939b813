//! Two engines finish the members of a set at once, and what the run that follows may read.

use serde_json::Value;

use super::*;
use crate::model::{Dag, DatasetExpression, DatasetName, RunKind};
use crate::store::RunFilter;

/// How often both members finish at once.
const ROUNDS: usize = 40;

fn producer(id: &str, queue: &str, dataset: &str) -> Dag {
    let mut made = dag(id, &[("write", &[])]);
    made.tasks[0].queue = queue.to_owned();
    made.tasks[0].outlets = vec![DatasetName::new(dataset).unwrap()];
    made
}

fn consumer(set: Value, with: Value) -> Dag {
    let mut made = dag("reads", &[("use", &[])]);
    made.datasets = Some(serde_json::from_value::<DatasetExpression>(set).unwrap());
    made.tasks[0].with = with.as_object().unwrap().clone();
    made
}

#[tokio::test]
async fn two_engines_that_finish_both_members_at_once_make_one_run_each_time() {
    let (store, _) = fresh_store().await;
    let (left, right) = (producer("left", "one", "a"), producer("right", "two", "b"));
    let both = consumer(json!({ "all": ["a", "b"] }), json!({}));
    for dag in [&left, &right, &both] {
        publish(&store, dag).await;
    }
    // Both producers of a round wait for each other, each on its own engine, and end together.
    let meet = Arc::new(tokio::sync::Barrier::new(2));
    let (ran, mut runs) = mpsc::unbounded_channel();
    let registry = kinds(move |context, _| {
        let (meet, ran) = (Arc::clone(&meet), ran.clone());
        async move {
            match context.instance.dag_id.as_str() {
                "reads" => ran.send(context.instance.run_id).unwrap(),
                _producer => {
                    meet.wait().await;
                }
            }
            Ok(Outcome::success())
        }
    });
    let mut engines = Vec::new();
    for queue in ["one", "two"] {
        let serves = Options {
            queues: vec![queue.to_owned(), "default".to_owned()],
            slots: 2,
            ..options(queue)
        };
        let clock = Arc::new(SystemClock::new());
        engines.push(start_with(&store, registry.clone(), Roles::Both, serves, clock).await);
    }
    for _ in 0..ROUNDS {
        trigger(&store, &left).await;
        trigger(&store, &right).await;
        engines[0].bell().ring();
        runs.recv().await.unwrap();
    }
    let filter = RunFilter {
        dag_id: Some(both.id.clone()),
        limit: 500,
        ..RunFilter::default()
    };
    let made = store.runs(&filter).await.unwrap();
    assert_eq!(made.len(), ROUNDS);
    for run in made {
        assert_eq!(run.kind, RunKind::Dataset);
        let events = store.events_of_run(run.run_id).await.unwrap();
        let mut datasets: Vec<&str> = events.iter().map(|event| event.dataset.as_str()).collect();
        datasets.sort_unstable();
        assert_eq!(datasets, ["a", "b"]);
        run_end(&store, engines[0].changes(), run.run_id).await;
    }
    for engine in engines {
        finish(engine).await;
    }
}

#[tokio::test]
async fn the_run_that_follows_reads_what_its_events_carry() {
    let (store, _) = fresh_store().await;
    let writes = producer("writes", "default", "s3://lake/pins");
    let reads = consumer(
        json!({ "any": ["s3://lake/pins", "users"] }),
        json!({
            "rows": "{{ (triggering_datasets[\"s3://lake/pins\"] | last).extra.rows }}",
            "by": "{{ (triggering_datasets[\"s3://lake/pins\"] | last).task_id }}",
            "users": "{{ triggering_datasets.users | length }}",
        }),
    );
    publish(&store, &writes).await;
    publish(&store, &reads).await;
    let (read, mut rendered) = mpsc::unbounded_channel();
    let registry = kinds(move |context, with| {
        let read = read.clone();
        async move {
            if context.instance.dag_id == "reads" {
                read.send(Value::Object(with)).unwrap();
            }
            Ok(Outcome::Success {
                output: json!({ "rows": 200 }),
            })
        }
    });
    let engine = start(&store, registry).await;
    trigger(&store, &writes).await;
    engine.bell().ring();
    assert_eq!(
        rendered.recv().await.unwrap(),
        json!({ "rows": 200, "by": "write", "users": 0 })
    );
    finish(engine).await;
}
