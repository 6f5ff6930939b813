//! The order of the steps and what stands in its way, in one process.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use pinwheel_tasks::{
    Failure, FailureClass, Kind, Log, kafka,
    kafka_to_s3::{Observer, Step},
    landing,
    s3::Location,
};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    topic_partition_list::{Offset, TopicPartitionList},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::world::{
    BUCKET, HoldAt, PARTITIONS, PREFIX, StopAt, World, context, logical_date, record, small_chunks,
};

#[tokio::test(flavor = "multi_thread")]
async fn landing_twice_lands_only_what_is_new() {
    let mut world = World::new().await;
    world.produce(700).await;
    let first = world.land(1).await;
    assert_eq!(first["records"], json!(700));
    assert_eq!(first["lag_left"], json!(0));
    assert!(
        first["objects"].as_u64() > Some(3),
        "several objects a partition: {first}"
    );
    let nothing_new = world.land(2).await;
    assert_eq!(
        (&nothing_new["records"], &nothing_new["objects"]),
        (&json!(0), &json!(0))
    );
    world.produce(100).await;
    let second = world.land(3).await;
    assert_eq!(second["records"], json!(100));
    assert_eq!(
        second["partitions"][0],
        json!({ "partition": 0, "start": 234, "end": 268, "records": 34, "lag": 0 })
    );
    assert_eq!(
        world.manifests().await.len(),
        3,
        "an empty landing has a manifest too"
    );
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_stopped_at_any_step_and_run_again_lands_each_record_once() {
    let mut world = World::new().await;
    let points = [
        (Step::PlanMade, 1),
        (Step::PlanFrozen, 1),
        (Step::ChunkBegun, 1),
        (Step::ChunkBegun, 4),
        (Step::ChunkRead, 1),
        (Step::ChunkRead, 4),
        (Step::ObjectWritten, 1),
        (Step::ObjectWritten, 4),
        (Step::ObjectsWritten, 1),
        (Step::ManifestWritten, 1),
        (Step::CursorMoved, 1),
        (Step::Marked, 1),
    ];
    for (run, (step, nth)) in (1..).zip(points) {
        world.produce(300).await;
        let dying = world.kind().observed_by(StopAt::nth(step, nth));
        let failure = world
            .try_once(&dying, run, small_chunks())
            .await
            .expect_err("the test stops it");
        assert_eq!(failure.message, "stopped by the test", "at {step:?}");
        // What comes between the tries belongs to the next run, unless there was no plan yet.
        world.produce(30).await;
        let expected = if step == Step::PlanMade { 330 } else { 300 };
        let left_over = if run <= 2 { 0 } else { 30 };
        let output = world
            .try_once(&world.kind(), run, small_chunks())
            .await
            .expect("the second try completes");
        assert_eq!(
            output["records"],
            json!(expected + left_over),
            "at {step:?}"
        );
    }
    world.land(100).await;
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleared_task_answers_the_same_and_moves_nothing() {
    let mut world = World::new().await;
    world.produce(90).await;
    let first = world.land(1).await;
    world.produce(60).await;
    world.land(2).await;
    let mut again = world.land(1).await;
    assert_eq!(again["lag_left"], json!(60));
    again["lag_left"] = json!(0);
    for partition in again["partitions"].as_array_mut().expect("a list") {
        assert_eq!(partition["lag"], json!(20));
        partition["lag"] = json!(0);
    }
    assert_eq!(again, first);
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_attempt_writes_identical_bytes_under_identical_keys() {
    let mut world = World::new().await;
    world.produce(500).await;
    world
        .store
        .ensure_bucket("other")
        .await
        .expect("the bucket can be made");
    world.land(1).await;
    let elsewhere = json!({ "max_chunk_bytes": 6_000, "bucket": "other" });
    // Another task instance with the logical date of the first run.
    let (mut context, _said) = context(1, world.ledger.of_instance(2));
    context.durable = world.ledger.of_instance(2);
    let mut with = elsewhere.as_object().expect("a table").clone();
    with.insert("topic".to_owned(), json!(world.topic));
    with.insert("prefix".to_owned(), json!(PREFIX));
    world
        .kind()
        .run(&context, with)
        .await
        .expect("nothing is in the way");
    let objects = Location::new(BUCKET, "raw/pins/dt=");
    let keys = world.store.list(&objects).await.expect("the store answers");
    let others = world
        .store
        .list(&Location::new("other", "raw/pins/dt="))
        .await
        .expect("the store answers");
    assert_eq!(keys, others);
    assert!(keys.len() > 3);
    for key in keys {
        let one = world
            .store
            .get(&Location::new(BUCKET, &key))
            .await
            .expect("listed");
        let other = world
            .store
            .get(&Location::new("other", &key))
            .await
            .expect("listed");
        assert!(one == other, "{key} differs between attempts");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_another_run_overtook_is_refused_and_leaves_no_manifest() {
    let mut world = World::new().await;
    world.produce(120).await;
    let dying = world.kind().observed_by(StopAt::nth(Step::PlanFrozen, 1));
    world
        .try_once(&dying, 1, small_chunks())
        .await
        .expect_err("the test stops it");
    world.produce(60).await;
    world.land(2).await;
    let failure = world
        .try_once(&world.kind(), 1, small_chunks())
        .await
        .expect_err("its cursor has moved");
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(
        failure
            .message
            .contains("cursor `landing:pins→lake/raw/pins`"),
        "{}",
        failure.message
    );
    assert_eq!(world.manifests().await.len(), 1);
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_somebody_else_is_never_overwritten() {
    let mut world = World::new().await;
    world.produce(9).await;
    let key = landing::object_key(PREFIX, logical_date(1), &world.topic, 1, 0, 2);
    let at = Location::new(BUCKET, key);
    world
        .store
        .put(&at, b"mine".to_vec().into(), "text/plain")
        .await
        .expect("the store takes it");
    let failure = world
        .try_once(&world.kind(), 1, json!({}))
        .await
        .expect_err("the key is taken");
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(
        failure.message.contains("exists with different content"),
        "{}",
        failure.message
    );
    assert_eq!(
        &world.store.get(&at).await.expect("still there")[..],
        b"mine"
    );
    assert!(world.manifests().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_lands_the_topic_in_several_runs() {
    let mut world = World::new().await;
    world.produce(100).await;
    let mut landed = Vec::new();
    for run in 1..=4 {
        let output = world
            .try_once(&world.kind(), run, json!({ "max_records": 40 }))
            .await
            .expect("it lands");
        let number = |value: &Value| value.as_u64().expect("a number");
        let partitions = output["partitions"].as_array().expect("a list");
        let lags: u64 = partitions.iter().map(|one| number(&one["lag"])).sum();
        assert_eq!(lags, number(&output["lag_left"]));
        landed.push((number(&output["records"]), lags));
    }
    assert_eq!(landed, [(40, 60), (40, 20), (20, 0), (0, 0)]);
    world.assert_each_record_landed_once().await;
}

/// `until` so many seconds after a moment an hour ago.
fn until(seconds: i64) -> Value {
    let moment = DateTime::<Utc>::from_timestamp_millis(at(seconds)).expect("a moment");
    json!({ "until": moment.to_rfc3339() })
}

fn at(seconds: i64) -> i64 {
    record(0).timestamp.expect("it has one") + 1_000 * seconds
}

async fn produce_at(world: &mut World, partition: i32, seconds: &[i64]) {
    let producer = world.producer();
    let records = seconds.iter().map(|seconds| {
        let mut record = record(2);
        record.timestamp = Some(at(*seconds));
        (partition, record)
    });
    world.send(&producer, records.collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_landing_up_to_a_moment_leaves_later_records_to_later_runs() {
    let mut world = World::new().await;
    // A late one stands behind an early one; everything is early; everything is late.
    produce_at(&mut world, 0, &[0, 10, 30, 5, 40]).await;
    produce_at(&mut world, 1, &[1, 2, 3]).await;
    produce_at(&mut world, 2, &[50, 60]).await;
    let land = async |run, with: Value| {
        let output = world.try_once(&world.kind(), run, with).await;
        let output = output.expect("it lands");
        let partitions = output["partitions"].as_array().expect("a list");
        let number = |value: &Value| value.as_i64().expect("a number");
        let pairs = partitions
            .iter()
            .map(|one| (number(&one["records"]), number(&one["lag"])));
        pairs.collect::<Vec<_>>()
    };
    assert_eq!(land(1, until(20)).await, [(2, 3), (3, 0), (0, 2)]);
    assert_eq!(land(2, until(20)).await, [(0, 3), (0, 0), (0, 2)]);
    // The late one lands with the record that it stands behind; the moment itself is too late.
    assert_eq!(land(3, until(40)).await, [(2, 1), (0, 0), (0, 2)]);
    // Of a run with an earlier moment than another had, which comes afterwards, nothing is left.
    assert_eq!(land(4, until(10)).await, [(0, 1), (0, 0), (0, 2)]);
    assert_eq!(land(5, json!({})).await, [(1, 0), (0, 0), (2, 0)]);
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_records_before_a_moment_are_decided_once() {
    let mut world = World::new().await;
    produce_at(&mut world, 0, &[0, 10]).await;
    let dying = world.kind().observed_by(StopAt::nth(Step::PlanFrozen, 1));
    world
        .try_once(&dying, 1, until(20))
        .await
        .expect_err("the test stops it");
    produce_at(&mut world, 0, &[11, 12]).await;
    for (run, records) in [(1, 2), (2, 2)] {
        let output = world.try_once(&world.kind(), run, until(20)).await;
        assert_eq!(output.expect("it lands")["records"], json!(records));
    }
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_landing_says_how_far_it_is() {
    let mut world = World::new().await;
    world.produce(300).await;
    let (held, reached) = HoldAt::nth(Step::ObjectWritten, 3);
    let kind = world.kind().observed_by(held.clone());
    let (mut context, _said) = context(1, world.ledger.of_instance(1));
    let (log, mut lines) = Log::channel(100);
    context.log = log;
    let mut with = small_chunks();
    for (name, value) in [("topic", world.topic.as_str()), ("bucket", BUCKET)] {
        with[name] = json!(value);
    }
    let landing = kind.run(&context, with.as_object().expect("a table").clone());
    let watching = async {
        reached.await.expect("it comes there");
        let line = loop {
            let (_, _, line) = lines.recv().await.expect("the landing is held");
            if line.starts_with("read ") {
                break line;
            }
        };
        held.let_go();
        line
    };
    let (landed, line) = tokio::join!(landing, watching);
    landed.expect("it lands");
    assert!(line.contains(" % of 300 offsets, "), "{line}");
    assert!(line.contains(" objects ("), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_retention_deleted_fail_the_task_until_it_may_continue() {
    let mut world = World::new().await;
    world.produce(30).await;
    world.land(1).await;
    world.produce(30).await;
    delete_before(&world, 1, 15).await;
    let failure = world
        .try_once(&world.kind(), 2, json!({}))
        .await
        .expect_err("records are lost");
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(
        failure.message.ends_with("10 to 14 of partition 1"),
        "{}",
        failure.message
    );
    assert!(failure.hint.expect("a hint").contains("when_deleted"));
    let output = world
        .try_once(&world.kind(), 2, json!({ "when_deleted": "continue" }))
        .await
        .expect("it goes on without them");
    assert_eq!(
        output["partitions"][1],
        json!({ "partition": 1, "start": 15, "end": 20, "records": 5, "lag": 0 })
    );
    assert_eq!(output["records"], json!(25));
}

fn admin(world: &World) -> AdminClient<DefaultClientContext> {
    kafka::client(&world.kafka)
        .create()
        .expect("the settings are fine")
}

/// Deletes what a partition holds before an offset, as retention would.
async fn delete_before(world: &World, partition: i32, offset: i64) {
    let mut before = TopicPartitionList::new();
    before
        .add_partition_offset(&world.topic, partition, Offset::Offset(offset))
        .expect("an offset");
    admin(world)
        .delete_records(&before, &AdminOptions::new())
        .await
        .expect("the broker deletes");
}

/// Deletes the topic with all that it holds and makes another of its name.
async fn recreate(world: &mut World) {
    let admin = admin(world);
    let options = AdminOptions::new();
    admin
        .delete_topics(&[&world.topic], &options)
        .await
        .expect("the broker deletes");
    let topic = NewTopic::new(&world.topic, PARTITIONS, TopicReplication::Fixed(-1));
    let answers = admin
        .create_topics([&topic], &options)
        .await
        .expect("the broker answers");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    world.produced.clear();
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_overtakes_a_frozen_plan_is_told_and_passed_over_on_request() {
    let mut world = World::new().await;
    world.produce(90).await;
    let dying = world.kind().observed_by(StopAt::nth(Step::PlanFrozen, 1));
    world
        .try_once(&dying, 1, small_chunks())
        .await
        .expect_err("the test stops it");
    delete_before(&world, 2, 12).await;
    let failure = world
        .try_once(&world.kind(), 1, small_chunks())
        .await
        .expect_err("what was planned is gone");
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(
        failure.message.ends_with("0 to 11 of partition 2"),
        "{}",
        failure.message
    );
    assert!(world.manifests().await.is_empty());
    let with = json!({ "max_chunk_bytes": 6_000, "when_deleted": "continue" });
    world
        .try_once(&world.kind(), 1, with)
        .await
        .expect("it goes on without them");
    let left = world.produced.get_mut(&2).expect("it has records");
    *left = left.split_off(&12);
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_created_again_is_known_by_the_record_that_was_landed_last() {
    let mut world = World::new().await;
    world.produce(30).await;
    world.land(1).await;
    // An empty landing passes on what the one before knew.
    world.land(2).await;
    recreate(&mut world).await;
    let producer = world.producer();
    let other = (0..60)
        .map(|number: i32| {
            let mut record = super::world::record(7);
            record.key = Some(b"of the new topic".to_vec());
            (number % PARTITIONS, record)
        })
        .collect();
    world.send(&producer, other).await;
    let failure = world
        .try_once(&world.kind(), 3, small_chunks())
        .await
        .expect_err("it is another topic");
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(
        failure.message.starts_with("offset 9 of partition "),
        "{}",
        failure.message
    );
    assert!(
        failure
            .message
            .ends_with("the topic was deleted and created again"),
        "{}",
        failure.message
    );
    assert!(failure.hint.expect("a hint").contains("another `prefix`"));
    assert_eq!(world.manifests().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_ends_before_its_cursor_was_created_again() {
    let mut world = World::new().await;
    world.produce(30).await;
    world.land(1).await;
    recreate(&mut world).await;
    world.produce(9).await;
    let failure = world
        .try_once(&world.kind(), 2, small_chunks())
        .await
        .expect_err("it is another topic");
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(
        failure
            .message
            .ends_with("the topic was deleted and created again"),
        "{}",
        failure.message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_topic_lands_nothing_and_what_comes_later_is_landed_from_its_start() {
    let mut world = World::new().await;
    let empty = world.land(1).await;
    assert_eq!(
        (&empty["records"], &empty["objects"], &empty["lag_left"]),
        (&json!(0), &json!(0), &json!(0))
    );
    world.produce(12).await;
    assert_eq!(world.land(2).await["records"], json!(12));
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_date_that_ran_first_leaves_an_earlier_date_what_came_after_it() {
    let mut world = World::new().await;
    world.produce(60).await;
    assert_eq!(world.land(2).await["records"], json!(60));
    world.produce(30).await;
    assert_eq!(world.land(1).await["records"], json!(30));
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_loses_the_cursor_at_the_last_moment_takes_its_manifest_back() {
    let mut world = World::new().await;
    world.produce(90).await;
    let (held, reached) = HoldAt::nth(Step::ManifestWritten, 1);
    let slow = world.kind().observed_by(held.clone());
    let slow = world.try_once(&slow, 1, small_chunks());
    let fast = async {
        reached.await.expect("it comes there");
        let output = world.land(2).await;
        held.let_go();
        output
    };
    let (slow, fast) = tokio::join!(slow, fast);
    assert_eq!(fast["records"], json!(90));
    let failure = slow.expect_err("the other run moved the cursor");
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(
        failure.message.starts_with("cursor `landing:pins"),
        "{failure}"
    );
    assert_eq!(world.manifests().await.len(), 1);
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_which_compaction_left_less_is_written_again_beside_it() {
    let mut world = World::new().await;
    world.produce(60).await;
    let dying = world
        .kind()
        .observed_by(StopAt::nth(Step::ObjectsWritten, 1));
    world
        .try_once(&dying, 1, small_chunks())
        .await
        .expect_err("the test stops it");
    // As a try leaves it that read a compacted log, on a broker whose other replica is not yet compacted.
    let key = world.objects().await.remove(0);
    let at = Location::new(BUCKET, &key);
    let whole = world.store.get(&at).await.expect("listed");
    let whole = landing::columns::decode(&whole).expect("a landed object");
    let rows = i64::try_from(whole.height()).expect("small");
    let mut fewer = whole.slice(0, 1);
    fewer
        .vstack_mut(&whole.slice(rows - 1, 1))
        .expect("one shape");
    let fewer = landing::columns::encode(fewer).expect("it can be written");
    world
        .store
        .put(&at, fewer.into(), "application/octet-stream")
        .await
        .expect("the store takes it");
    world.land(1).await;
    world.assert_each_record_landed_once().await;
    let beside = landing::other_object_key(&key, 1);
    assert!(world.objects().await.contains(&beside), "{beside}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_larger_than_an_object_is_an_object_of_its_own() {
    let mut world = World::new().await;
    world.produce(9).await;
    let producer: rdkafka::producer::FutureProducer = kafka::producer(&world.kafka)
        .set("message.max.bytes", "20000000")
        .set("compression.type", "none")
        .create()
        .expect("the settings are fine");
    let mut huge = super::world::record(4);
    // No two parts of it are the same, so that nothing can shorten it; the embedded broker takes 1 MB.
    let value =
        (0..225_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes());
    huge.value = Some(value.collect());
    world.send(&producer, vec![(1, huge)]).await;
    world.produce(9).await;
    let output = world.land(1).await;
    assert_eq!(output["records"], json!(19));
    assert!(output["bytes"].as_u64() > Some(800_000), "{output}");
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_does_not_exist_is_named_and_not_made() {
    let world = World::new().await;
    for _ in 0..2 {
        let failure = world
            .try_once(&world.kind(), 1, json!({ "topic": "pinz" }))
            .await
            .expect_err("no such topic");
        assert_eq!(failure.class, FailureClass::Retryable);
        assert!(
            failure
                .message
                .starts_with("topic `pinz` does not exist at 127.0.0.1:"),
            "{}",
            failure.message
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_permanent_and_found_before_anything_is_planned() {
    let world = World::new().await;
    let failure = world
        .try_once(&world.kind(), 1, json!({ "bucket": "attic" }))
        .await
        .expect_err("no such bucket");
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(
        failure
            .message
            .starts_with("bucket `attic` does not exist at http://127.0.0.1:"),
        "{}",
        failure.message
    );
    assert_eq!(
        world
            .ledger
            .of_instance(1)
            .frozen("plan")
            .await
            .expect("in memory"),
        None
    );
    assert!(!world.server.folder().join("attic").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_try_ends_at_once() {
    let mut world = World::new().await;
    world.produce(30).await;
    let (context, _said) = context(1, world.ledger.of_instance(1));
    let cancel = context.cancel.clone();
    let cancelling = Arc::new(CancelAt(cancel));
    let kind = world.kind().observed_by(cancelling);
    let with = json!({ "topic": world.topic, "bucket": BUCKET, "prefix": PREFIX });
    let run = kind.run(&context, with.as_object().expect("a table").clone());
    let ended = tokio::time::timeout(Duration::from_secs(5), run)
        .await
        .expect("it does not wait for anything");
    ended.expect_err("it was cancelled");
    assert!(world.manifests().await.is_empty());
    world.land(1).await;
    world.assert_each_record_landed_once().await;
}

/// Cancels the try when its plan is frozen, and then never answers.
struct CancelAt(CancellationToken);

#[async_trait]
impl Observer for CancelAt {
    async fn reached(&self, step: Step) -> Result<(), Failure> {
        if step == Step::PlanFrozen {
            self.0.cancel();
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}
