//! The real-time path against a real broker and a real Postgres: each event once in the live view, whatever is stopped,
//! cut or killed on the way.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, LazyLock},
    time::Duration,
};

use pinwheel_streaming::{
    emulate::{self, EmulateOptions},
    ingest::{Ingest, IngestOptions},
    live,
    worker::{self, GroupProtocol, OnGap, State, Status, StreamDefinition, Worker, WorkerOptions},
};
use pinwheel_tasks::{KafkaSettings, dataset::Dataset, kafka};
use pinwheel_test_support::{broker::Broker, postgres::Postgres};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    producer::{FutureProducer, FutureRecord},
};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const PINS: &str = include_str!("../../data/pins.ndjson");
const PATIENCE: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 4;

static DATASET: LazyLock<Arc<Dataset>> = LazyLock::new(|| {
    Arc::new(
        Dataset::parse("pins.toml", include_str!("../../dags/datasets/pins.toml"))
            .expect("the shipped dataset is valid"),
    )
});

/// A broker with the topic, and a database.
struct World {
    kafka: KafkaSettings,
    database_url: String,
    pool: PgPool,
    _broker: Broker,
}

impl World {
    async fn new() -> Self {
        let broker = tokio::task::spawn_blocking(Broker::start)
            .await
            .expect("the broker starts");
        let kafka = KafkaSettings {
            brokers: broker.brokers(),
            properties: BTreeMap::new(),
        };
        kafka::ensure_topic(&kafka, "pins", PARTITIONS)
            .await
            .expect("the topic is made");
        let database_url = Postgres::shared().empty_database().await;
        let pool = live::connect(&database_url).expect("a valid address");
        Self {
            kafka,
            database_url,
            pool,
            _broker: broker,
        }
    }

    fn options(&self, name: &str) -> WorkerOptions {
        let stream =
            StreamDefinition::parse("pins.toml", include_str!("../../dags/streams/pins.toml"))
                .expect("the shipped stream is valid");
        let mut options = WorkerOptions::new(
            self.kafka.clone(),
            &self.database_url,
            stream,
            Arc::clone(&DATASET),
        );
        options.name = name.to_owned();
        options.discovery = Duration::from_secs(1);
        options
    }

    fn start(&self, name: &str, change: impl FnOnce(&mut WorkerOptions)) -> Running {
        let mut options = self.options(name);
        change(&mut options);
        let worker = Worker::new(options).expect("the stream fits its dataset");
        let status = worker.status();
        let stop = CancellationToken::new();
        Running {
            status,
            stop: stop.clone(),
            task: tokio::spawn(worker.run(stop)),
        }
    }

    /// Puts messages on the topic and waits for every acknowledgement.
    async fn produce(&self, messages: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let producer: FutureProducer = kafka::producer(&self.kafka).create().expect("a producer");
        let mut under_way = Vec::new();
        for (key, value) in messages {
            let mut record = FutureRecord::to("pins").key(&key).payload(&value);
            loop {
                match producer.send_result(record) {
                    Ok(delivery) => break under_way.push(delivery),
                    Err((_, back)) => {
                        record = back;
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
        for delivery in under_way {
            delivery
                .await
                .expect("the producer lives")
                .expect("acknowledged");
        }
    }

    async fn ends(&self) -> BTreeMap<i32, i64> {
        live::end_offsets(&self.kafka, "pins", Duration::from_secs(10))
            .await
            .expect("the broker answers")
    }

    async fn is_caught_up(&self) -> bool {
        live::is_caught_up(&self.pool, "pins", "pins", &self.ends().await)
            .await
            .expect("Postgres answers")
    }

    async fn until_caught_up(&self) {
        let caught_up = async {
            while !self.is_caught_up().await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, caught_up)
            .await
            .expect("the worker catches up");
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(&self.pool)
            .await
            .expect("a number")
    }

    async fn committed(&self) -> i64 {
        if self.number("select count(*) from pg_tables where schemaname = 'live' and tablename = 'stream_offset'").await == 0 {
            return 0;
        }
        self.number("select coalesce(sum(events), 0)::bigint from live.stream_offset")
            .await
    }
}

/// A worker in this process.
struct Running {
    status: watch::Receiver<Status>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), worker::Error>>,
}

impl Running {
    async fn until(&mut self, what: impl FnMut(&Status) -> bool) {
        tokio::time::timeout(PATIENCE, self.status.wait_for(what))
            .await
            .expect("in time")
            .expect("the worker runs");
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic").expect("a clean end");
    }

    async fn failure(self) -> worker::Error {
        let ended = tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("it ends by itself");
        ended.expect("no panic").expect_err("it fails")
    }
}

/// Many pins made of the real ones, each with its own key; every tenth comes twice, every hundredth is broken.
fn volume(pins: usize) -> (Vec<(String, Vec<u8>)>, Expected) {
    let real: Vec<Value> = PINS
        .lines()
        .map(|line| serde_json::from_str(line).expect("NDJSON"))
        .collect();
    let mut messages = Vec::new();
    let mut expected = Expected::default();
    for number in 0..pins {
        let key = format!("00000000-0000-4000-8000-{number:012}");
        let mut pin = real[number % real.len()].clone();
        pin["unique_id"] = json!(key);
        if number % 10 == 0 {
            pin["title"] = json!("the earlier one");
            messages.push((key.clone(), serde_json::to_vec(&pin).expect("JSON")));
            expected.cleaned += 1;
        }
        pin["title"] = json!("the later one");
        messages.push((key.clone(), serde_json::to_vec(&pin).expect("JSON")));
        expected.cleaned += 1;
        expected.rows += 1;
        if number % 100 == 0 {
            messages.push((key, format!("{{\"broken\": {number}").into_bytes()));
            expected.dead += 1;
        }
    }
    (messages, expected)
}

#[derive(Debug, Default, PartialEq)]
struct Expected {
    rows: i64,
    cleaned: i64,
    dead: i64,
}

impl World {
    async fn found(&self) -> Expected {
        assert_eq!(
            self.number("select count(*) from live.pins where title <> 'the later one'")
                .await,
            0,
            "the latest offset wins"
        );
        assert_eq!(self.number("select count(*) from live.pins as pins where kafka_offset >= (select next_offset from live.stream_offset where partition = kafka_partition)").await, 0);
        Expected {
            rows: self.number("select count(*) from live.pins").await,
            cleaned: self
                .number("select coalesce(sum(events), 0)::bigint from live.window_count where window_name = 'posts_per_category'")
                .await,
            dead: self.number("select count(*) from live.dead_letter").await,
        }
    }
}

type KeyAndValue = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Everything on the topic, by partition and offset.
fn read_all(kafka: &KafkaSettings, ends: &BTreeMap<i32, i64>) -> BTreeMap<(i32, i64), KeyAndValue> {
    let consumer: BaseConsumer = kafka::reader(kafka, "a test").create().expect("a consumer");
    let mut assignment = TopicPartitionList::new();
    for partition in ends.keys() {
        assignment
            .add_partition_offset("pins", *partition, Offset::Beginning)
            .expect("an offset");
    }
    consumer.assign(&assignment).expect("assigned");
    let wanted = ends.values().sum::<i64>();
    let mut found = BTreeMap::new();
    while (found.len() as i64) < wanted {
        if let Some(Ok(message)) = consumer.poll(Duration::from_secs(10)) {
            found.insert(
                (message.partition(), message.offset()),
                (
                    message.key().map(<[u8]>::to_vec),
                    message.payload().map(<[u8]>::to_vec),
                ),
            );
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_goes_from_the_post_to_the_live_table_and_malformed_messages_are_kept() {
    let world = World::new().await;
    let ingest = Ingest::bind(IngestOptions::new(
        "127.0.0.1:0".parse().expect("an address"),
        world.kafka.clone(),
        "pins",
    ))
    .await
    .expect("bound");
    let url = format!("http://{}/pin/", ingest.address());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(ingest.run(stop.clone()));
    let worker = world.start("a", |_| {});

    // The emulator waits for an ingest API that is not ready yet.
    let all = emulate::run(
        EmulateOptions::new(url.clone(), PINS),
        |_| {},
        CancellationToken::new(),
    )
    .await
    .expect("posted");
    assert_eq!(
        (all.accepted, all.refused.as_slice(), all.unposted),
        (200, &[][..], 0)
    );
    let mut again = EmulateOptions::new(url, PINS);
    (again.skip, again.count) = (160, Some(60));
    assert_eq!(
        emulate::run(again, |_| {}, CancellationToken::new())
            .await
            .expect("posted")
            .accepted,
        60
    );
    let malformed = emulate::malformed_messages();
    let places = emulate::produce_malformed(&world.kafka, "pins", &malformed)
        .await
        .expect("produced");

    world.until_caught_up().await;
    worker.stop().await;
    stop.cancel();
    serving.await.expect("no panic").expect("a clean end");

    assert_eq!(live::rows(&world.pool, "pins").await.expect("a count"), 200);
    assert_eq!(
        world
            .number("select sum(follower_count)::bigint from live.pins")
            .await,
        70_087_971
    );
    let summary = live::summary(&world.pool).await.expect("read");
    assert_eq!(
        (
            summary[0].stream.events,
            summary[0].stream.dead_letters,
            summary[0].stream.state.as_str()
        ),
        (265, 5, "stopped")
    );
    let dead = live::dead_letters(&world.pool, "pins", 10)
        .await
        .expect("read");
    assert_eq!(dead.len(), 5);
    for (message, place) in malformed.iter().zip(&places) {
        let letter = dead
            .iter()
            .find(|letter| (letter.partition, letter.offset) == *place)
            .expect("kept at its place");
        assert_eq!(
            letter.raw.as_deref().unwrap_or_default(),
            message.value,
            "{}",
            message.name
        );
    }

    let ends = world.ends().await;
    let kafka = world.kafka.clone();
    let topic = tokio::task::spawn_blocking(move || read_all(&kafka, &ends))
        .await
        .expect("read");
    for line in PINS.lines() {
        let key = serde_json::from_str::<Value>(line).expect("NDJSON")["unique_id"]
            .as_str()
            .expect("text")
            .as_bytes()
            .to_vec();
        let verbatim = topic.values().any(|(found, value)| {
            found.as_ref() == Some(&key) && value.as_deref() == Some(line.as_bytes())
        });
        assert!(
            verbatim,
            "what was posted is on the topic byte for byte: {line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_dropped_between_batches_and_cut_from_postgres_loses_and_doubles_nothing() {
    let world = World::new().await;
    let (messages, expected) = volume(3_000);
    let total = messages.len() as i64;
    world.produce(messages).await;
    let mut drops = 0;
    while world.committed().await < total {
        let mut worker = world.start("dropped", |options| options.batch_messages = 97);
        let until = world.committed().await.unsigned_abs();
        let goal = 300.min(total.unsigned_abs() - until);
        worker.until(|status| status.events >= goal).await;
        if drops % 2 == 0 {
            // Every connection of the worker is cut, perhaps inside a transaction or while it commits.
            world.number("select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()").await;
            let goal = 600.min(total.unsigned_abs() - until);
            worker
                .until(|status| {
                    status.events >= goal
                        || status.state == State::Running && status.lag() == Some(0)
                })
                .await;
        }
        // As if the process were killed: nothing gets the time to clean up.
        worker.task.abort();
        assert!(worker.task.await.is_err_and(|error| error.is_cancelled()));
        drops += 1;
    }
    assert!(drops > 3, "it was dropped {drops} times");
    assert_eq!(world.found().await, expected);
    assert_eq!(world.committed().await, total);
}

fn without_a_group(options: &mut WorkerOptions) {
    options.stream.group_protocol = GroupProtocol::None;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_takes_over_and_the_first_stops() {
    let world = World::new().await;
    let (messages, expected) = volume(1_000);
    let mut halves = messages;
    let rest = halves.split_off(400);
    world.produce(halves).await;
    let mut first = world.start("first", without_a_group);
    first.until(|status| status.state == State::Running).await;
    world.until_caught_up().await;
    let mut second = world.start("second", without_a_group);
    second.until(|status| status.state == State::Running).await;
    world.produce(rest).await;
    assert!(matches!(
        first.failure().await,
        worker::Error::Fenced { .. }
    ));
    world.until_caught_up().await;
    second.stop().await;
    assert_eq!(world.found().await, expected);
    assert_eq!(
        world
            .number("select min(generation) from live.stream_offset")
            .await,
        2
    );
    let streams = live::streams(&world.pool).await.expect("read");
    let workers: BTreeMap<_, _> = streams[0]
        .workers
        .iter()
        .map(|worker| (worker.owner.as_str(), worker.state()))
        .collect();
    assert_eq!(
        workers,
        BTreeMap::from([("first", "failed"), ("second", "stopped")])
    );
    assert_eq!(streams[0].partitions[0].owner, "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_notices_that_it_was_fenced() {
    let world = World::new().await;
    let mut first = world.start("first", without_a_group);
    first.until(|status| status.state == State::Running).await;
    let mut second = world.start("second", without_a_group);
    second.until(|status| status.state == State::Running).await;
    assert!(matches!(
        first.failure().await,
        worker::Error::Fenced { .. }
    ));
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_are_gone_stop_the_worker_unless_it_may_skip_them() {
    let world = World::new().await;
    let (messages, _) = volume(100);
    world.produce(messages.clone()).await;
    let worker = world.start("before", |_| {});
    world.until_caught_up().await;
    worker.stop().await;
    let before = world.ends().await;
    world.produce(messages).await;
    let (partition, end) = world
        .ends()
        .await
        .into_iter()
        .max_by_key(|(_, end)| *end)
        .expect("a partition");
    let admin: AdminClient<DefaultClientContext> =
        kafka::client(&world.kafka).create().expect("a client");
    let mut gone = TopicPartitionList::new();
    gone.add_partition_offset("pins", partition, Offset::Offset(end - 1))
        .expect("an offset");
    admin
        .delete_records(&gone, &AdminOptions::new())
        .await
        .expect("deleted");

    let failure = world.start("after", |_| {}).failure().await;
    let worker::Error::Gap { from, to, .. } = failure else {
        panic!("not a gap: {failure}")
    };
    assert_eq!((from, to), (before[&partition], end - 2));
    let streams = live::streams(&world.pool).await.expect("read");
    assert_eq!(streams[0].state, "failed");
    assert!(
        streams[0]
            .problem
            .as_ref()
            .is_some_and(|problem| problem.contains("on_gap")),
        "{:?}",
        streams[0].problem
    );

    let worker = world.start("skips", |options| options.stream.on_gap = OnGap::Skip);
    world.until_caught_up().await;
    worker.stop().await;
    assert_eq!(
        world
            .number("select sum(to_offset - from_offset)::bigint from live.stream_gap")
            .await,
        end - 1 - before[&partition]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_does_not_exist_yet_is_waited_for() {
    let world = World::new().await;
    let mut worker = world.start("early", |options| options.stream.topic = "later".to_owned());
    worker
        .until(|status| {
            status.state == State::Waiting
                && status
                    .problem
                    .as_ref()
                    .is_some_and(|problem| problem.contains("`later`"))
        })
        .await;
    kafka::ensure_topic(&world.kafka, "later", 2)
        .await
        .expect("made");
    worker
        .until(|status| status.state == State::Running && status.partitions.len() == 2)
        .await;
    worker.stop().await;
}

/// `pinwheel stream` as a process of its own.
fn stream_process(world: &World, config: &Path) -> Child {
    Command::new(crate::harness::PINWHEEL)
        .arg("stream")
        .env("PINWHEEL_DATABASE_URL", &world.database_url)
        .env("PINWHEEL_KAFKA_BROKERS", &world.kafka.brokers)
        .env("PINWHEEL_CONFIG", config)
        .env(
            "PINWHEEL_DAGS_FOLDER",
            crate::harness::project().join("dags"),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_moment_neither_loses_nor_doubles_an_event() {
    let world = World::new().await;
    let (messages, expected) = volume(12_000);
    let total = messages.len() as i64;
    world.produce(messages).await;
    // By this name the group gives a process at once what the killed one held, and does not wait for its session to end.
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("pinwheel.toml");
    std::fs::write(&config, "[worker]\nname = \"killed\"\n").expect("written");
    let mut kills = 0;
    loop {
        let before = world.committed().await;
        if before >= total {
            break;
        }
        let mut process = stream_process(&world, &config);
        let progress = async {
            while world.committed().await == before {
                assert!(
                    process.try_wait().expect("a child of ours").is_none(),
                    "`pinwheel stream` ended by itself"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, progress)
            .await
            .expect("the stream makes progress");
        process.kill().expect("SIGKILL");
        process.wait().expect("reaped");
        kills += 1;
    }
    assert!(kills > 1, "it was killed {kills} times");
    assert_eq!(world.found().await, expected);
}
