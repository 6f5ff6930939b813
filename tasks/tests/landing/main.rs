//! `kafka_to_s3` against a real broker and a real S3 server: every record that was produced is landed exactly once,
//! byte for byte, wherever a try was stopped.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeZone, Utc};
use pinwheel_tasks::{
    Context, Durable, Failure, FailureClass, Instance, KafkaSettings, KafkaToS3, Kind, Log,
    NoConnections, Outcome, S3Settings, kafka,
    kafka_to_s3::{Observer, Step},
    landing::{self, Manifest, columns},
    s3::{Location, ObjectStore, sha256},
};
use pinwheel_test_support::{broker::Broker, durable::Ledger, s3::S3};
use rdkafka::{
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
    topic_partition_list::{Offset, TopicPartitionList},
};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

const BUCKET: &str = "lake";
const PREFIX: &str = "raw/pins";
const PARTITIONS: i32 = 3;

/// A record as it was produced and as it must be found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Landed {
    timestamp: Option<i64>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

/// One installation: its services, its durable state, and what was produced so far.
struct World {
    kafka: KafkaSettings,
    s3: S3Settings,
    store: ObjectStore,
    ledger: Ledger,
    topic: String,
    produced: BTreeMap<i32, Vec<Landed>>,
    _broker: Broker,
    server: S3,
}

impl World {
    async fn new() -> Self {
        let broker = tokio::task::spawn_blocking(Broker::start)
            .await
            .expect("the broker starts");
        let server = S3::start().await;
        let kafka = KafkaSettings {
            brokers: broker.brokers(),
            properties: BTreeMap::new(),
        };
        let store = ObjectStore::connect(server.settings()).await;
        store
            .ensure_bucket(BUCKET)
            .await
            .expect("the bucket can be made");
        let topic = "pins".to_owned();
        kafka::ensure_topic(&kafka, &topic, PARTITIONS)
            .await
            .expect("the topic can be made");
        Self {
            kafka,
            s3: server.settings().clone(),
            store,
            ledger: Ledger::default(),
            topic,
            produced: BTreeMap::new(),
            _broker: broker,
            server,
        }
    }

    /// Produces records of every sort: with and without key, value and headers, and not always UTF-8.
    async fn produce(&mut self, count: usize) {
        let producer: FutureProducer = kafka::producer(&self.kafka)
            .create()
            .expect("the settings are fine");
        let mut sent = Vec::new();
        for index in 0..count {
            let partition = i32::try_from(index).expect("small") % PARTITIONS;
            let of_partition = self.produced.entry(partition).or_default();
            let number = of_partition.len();
            let timestamp = 1_700_000_000_000 + i64::try_from(number).expect("small");
            let record = Landed {
                timestamp: Some(timestamp),
                key: (!number.is_multiple_of(3)).then(|| format!("key {number}").into_bytes()),
                value: match number % 5 {
                    0 => None,
                    1 => Some(b"\xff\xfe\x00 not UTF-8".to_vec()),
                    _ => Some(
                        format!(
                            "{{\"index\": {number}, \"title\": \"Füße {}\"}}",
                            "x".repeat(number % 400)
                        )
                        .into_bytes(),
                    ),
                },
                headers: if number.is_multiple_of(4) {
                    vec![
                        ("source".to_owned(), Some(b"\xfdtest".to_vec())),
                        ("source".to_owned(), Some(Vec::new())),
                    ]
                } else {
                    Vec::new()
                },
            };
            let mut message = FutureRecord::<[u8], [u8]>::to(&self.topic)
                .partition(partition)
                .timestamp(timestamp);
            message.key = record.key.as_deref();
            message.payload = record.value.as_deref();
            let headers =
                record
                    .headers
                    .iter()
                    .fold(OwnedHeaders::new(), |headers, (name, value)| {
                        headers.insert(Header {
                            key: name,
                            value: value.as_deref(),
                        })
                    });
            if !record.headers.is_empty() {
                message.headers = Some(headers);
            }
            sent.push(
                producer
                    .send_result(message)
                    .map_err(|(error, _)| error)
                    .expect("the queue has room"),
            );
            of_partition.push(record);
        }
        for delivery in sent {
            delivery
                .await
                .expect("the producer lives")
                .map_err(|(error, _)| error)
                .expect("the broker takes it");
        }
    }

    fn kind(&self) -> KafkaToS3 {
        KafkaToS3::new(self.kafka.clone(), self.s3.clone())
    }

    /// One try of the run's landing task.
    async fn try_once(&self, kind: &KafkaToS3, run: i64, with: Value) -> Result<Value, Failure> {
        let (context, _said) = context(run, self.ledger.of_instance(run));
        let mut table = with.as_object().expect("a table").clone();
        for (name, value) in [
            ("topic", self.topic.as_str()),
            ("bucket", BUCKET),
            ("prefix", PREFIX),
        ] {
            table.entry(name).or_insert_with(|| json!(value));
        }
        match kind.run(&context, table).await? {
            Outcome::Success { output } => Ok(output),
            other => panic!("a landing succeeds or fails, it does not answer {other:?}"),
        }
    }

    async fn land(&self, run: i64) -> Value {
        self.try_once(&self.kind(), run, small_chunks())
            .await
            .expect("nothing is in the way")
    }

    async fn manifests(&self) -> Vec<Manifest> {
        let prefix = Location::new(BUCKET, landing::manifest_prefix(PREFIX));
        let mut manifests = Vec::new();
        for key in self.store.list(&prefix).await.expect("the store answers") {
            let at = Location::new(BUCKET, key);
            manifests.push(
                landing::read::manifest(&self.store, &at)
                    .await
                    .expect("a manifest"),
            );
        }
        manifests
    }

    /// Compares every record of the topic with what all manifests together hold.
    async fn assert_each_record_landed_once(&self) {
        let mut found: BTreeMap<i32, BTreeMap<i64, Vec<Landed>>> = BTreeMap::new();
        for manifest in self.manifests().await {
            for object in &manifest.objects {
                let at = Location::new(BUCKET, &object.key);
                let body = self
                    .store
                    .get(&at)
                    .await
                    .expect("a manifest names what exists");
                assert_eq!(
                    (sha256(&body), body.len() as u64),
                    (object.sha256.clone(), object.bytes),
                    "{at}"
                );
                let records = records(&body);
                assert_eq!(records.len() as u64, object.records);
                assert_eq!(
                    records.first().map(|(offset, _)| *offset),
                    Some(object.first_offset)
                );
                assert_eq!(
                    records.last().map(|(offset, _)| *offset),
                    Some(object.last_offset)
                );
                for (offset, record) in records {
                    found
                        .entry(object.partition)
                        .or_default()
                        .entry(offset)
                        .or_default()
                        .push(record);
                }
            }
        }
        let expected: BTreeMap<i32, BTreeMap<i64, Vec<Landed>>> = self
            .produced
            .iter()
            .map(|(partition, records)| {
                (
                    *partition,
                    (0..)
                        .zip(records.iter().map(|record| vec![record.clone()]))
                        .collect(),
                )
            })
            .collect();
        for (partition, records) in &expected {
            let landed = found.get(partition).cloned().unwrap_or_default();
            assert_eq!(
                landed.keys().collect::<Vec<_>>(),
                records.keys().collect::<Vec<_>>(),
                "partition {partition}"
            );
            assert!(
                landed == *records,
                "partition {partition} holds other bytes than were produced"
            );
        }
        assert_eq!(found.len(), expected.len());
    }
}

/// So small that every partition needs several objects.
fn small_chunks() -> Value {
    json!({ "max_chunk_bytes": 6_000 })
}

fn logical_date(run: i64) -> DateTime<Utc> {
    Utc.timestamp_opt(1_790_000_000 + run * 86_400, 0)
        .single()
        .expect("a date that exists")
}

fn context(run: i64, durable: Arc<dyn Durable>) -> (Context, Arc<Mutex<Vec<String>>>) {
    let (log, mut lines) = Log::channel(100);
    let said = Arc::new(Mutex::new(Vec::new()));
    let keeper = Arc::clone(&said);
    tokio::spawn(async move {
        while let Some((_, _, line)) = lines.recv().await {
            keeper
                .lock()
                .expect("nobody panics while holding it")
                .push(line);
        }
    });
    let instance = Instance {
        dag_id: "test".to_owned(),
        run_id: run,
        task_id: "land".to_owned(),
        instance_id: run,
        try_number: 1,
        logical_date: logical_date(run),
        data_interval_start: logical_date(run),
        data_interval_end: logical_date(run + 1),
        params: Map::new(),
    };
    let context = Context {
        instance: Arc::new(instance),
        log,
        cancel: CancellationToken::new(),
        durable,
        orchestrator: Arc::new(pinwheel_tasks::Alone),
        connections: Arc::new(NoConnections),
        resume: None,
    };
    (context, said)
}

fn records(body: &[u8]) -> Vec<(i64, Landed)> {
    let frame = columns::decode(body).expect("a landed object");
    let column = |name: &str| frame.column(name).expect("the contract's column").clone();
    let (offsets, timestamps, keys) = (
        column(columns::OFFSET),
        column(columns::TIMESTAMP),
        column(columns::KEY),
    );
    let (values, headers) = (column(columns::VALUE), column(columns::HEADERS));
    (0..frame.height())
        .map(|index| {
            let pairs = headers
                .list()
                .expect("a list")
                .get_as_series(index)
                .expect("never null");
            let fields = pairs.struct_().expect("pairs").fields_as_series();
            let headers = (0..pairs.len())
                .map(|pair| {
                    let name = fields[0].str().expect("text").get(pair).expect("a name");
                    (
                        name.to_owned(),
                        fields[1]
                            .binary()
                            .expect("bytes")
                            .get(pair)
                            .map(<[u8]>::to_vec),
                    )
                })
                .collect();
            let landed = Landed {
                timestamp: timestamps.i64().expect("numbers").get(index),
                key: keys.binary().expect("bytes").get(index).map(<[u8]>::to_vec),
                value: values
                    .binary()
                    .expect("bytes")
                    .get(index)
                    .map(<[u8]>::to_vec),
                headers,
            };
            (
                offsets
                    .i64()
                    .expect("numbers")
                    .get(index)
                    .expect("never null"),
                landed,
            )
        })
        .collect()
}

/// Ends a try at the n-th time a step is reached, as a kill would.
struct StopAt {
    step: Step,
    left: Mutex<usize>,
}

impl StopAt {
    fn nth(step: Step, nth: usize) -> Arc<Self> {
        Arc::new(Self {
            step,
            left: Mutex::new(nth),
        })
    }
}

#[async_trait]
impl Observer for StopAt {
    async fn reached(&self, step: Step) -> Result<(), Failure> {
        let mut left = self.left.lock().expect("nobody panics while holding it");
        if step != self.step || *left == 0 {
            return Ok(());
        }
        *left -= 1;
        if *left == 0 {
            Err(Failure::retryable("stopped by the test"))
        } else {
            Ok(())
        }
    }
}

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
        json!({ "partition": 0, "start": 234, "end": 268, "records": 34 })
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
    again["lag_left"] = first["lag_left"].clone();
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
        landed.push(output["records"].as_u64().expect("a number"));
    }
    assert_eq!(landed, [40, 40, 20, 0]);
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_retention_deleted_fail_the_task_until_it_may_continue() {
    let mut world = World::new().await;
    world.produce(30).await;
    world.land(1).await;
    world.produce(30).await;
    let admin: AdminClient<DefaultClientContext> = kafka::client(&world.kafka)
        .create()
        .expect("the settings are fine");
    let mut before = TopicPartitionList::new();
    before
        .add_partition_offset(&world.topic, 1, Offset::Offset(15))
        .expect("an offset");
    admin
        .delete_records(&before, &AdminOptions::new())
        .await
        .expect("the broker deletes");
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
        json!({ "partition": 1, "start": 15, "end": 20, "records": 5 })
    );
    assert_eq!(output["records"], json!(25));
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
