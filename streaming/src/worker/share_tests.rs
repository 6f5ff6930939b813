//! Workers that share a topic: whoever joins, leaves, is cut off or stale, each event is written once.
//!
//! The broker is the embedded one, or the Kafka that `PINWHEEL_TEST_BROKERS` names; `PINWHEEL_TEST_GROUP_PROTOCOL=consumer` then
//! tries the new protocol, which the embedded one does not speak.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use pinwheel_tasks::{KafkaSettings, dataset::Dataset, kafka};
use pinwheel_test_support::{broker::Broker, postgres::Postgres};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
    producer::{FutureProducer, FutureRecord},
};
use serde_json::json;
use sqlx::PgPool;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    DeadLetterSink, Error, GroupProtocol, State, Status, StreamDefinition, Worker, WorkerOptions,
    plan::Plan,
    sink,
    tests::{Database, pin, plan_of},
};
use crate::live;

const PATIENCE: Duration = Duration::from_secs(60);
const STREAM: &str = r#"
[stream]
id = "pins"
topic = "pins"
dataset = "pins"

[sinks.posts]
table = "pins"

[windows.per_category]
every = "1m"
by = "category"

[windows.all]
every = "1m"

[windows.last]
last = 5000
by = "category"
"#;

struct World {
    kafka: KafkaSettings,
    /// The stream and its topic: a Kafka that exists already has those of other tests.
    name: String,
    protocol: GroupProtocol,
    database_url: String,
    pool: PgPool,
    _broker: Option<Broker>,
}

impl World {
    async fn new() -> Self {
        let given = std::env::var("PINWHEEL_TEST_BROKERS").ok();
        let broker = match &given {
            Some(_) => None,
            None => {
                let started = tokio::task::spawn_blocking(Broker::start);
                Some(started.await.expect("the broker starts"))
            }
        };
        let brokers = given.or_else(|| broker.as_ref().map(Broker::brokers));
        let kafka = KafkaSettings {
            brokers: brokers.expect("one of the two"),
            properties: BTreeMap::new(),
        };
        let protocol = match std::env::var("PINWHEEL_TEST_GROUP_PROTOCOL").as_deref() {
            Ok("consumer") => GroupProtocol::Consumer,
            Ok(_) | Err(_) => GroupProtocol::Classic,
        };
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let name = format!("pins_{}_{number}", std::process::id());
        kafka::ensure_topic(&kafka, &name, 4)
            .await
            .expect("the topic is made");
        let database_url = Postgres::shared().empty_database().await;
        let pool = live::connect(&database_url).expect("a valid address");
        live::migrate(&pool).await.expect("the schema");
        Self {
            kafka,
            name,
            protocol,
            database_url,
            pool,
            _broker: broker,
        }
    }

    fn stream(&self) -> StreamDefinition {
        let mut stream = StreamDefinition::parse("pins.toml", STREAM).expect("valid");
        stream.id.clone_from(&self.name);
        stream.topic.clone_from(&self.name);
        stream.group_protocol = self.protocol;
        stream
    }

    fn start(&self, name: &str, change: impl FnOnce(&mut WorkerOptions)) -> Running {
        let dataset = Dataset::parse(
            "pins.toml",
            include_str!("../../../dags/datasets/pins.toml"),
        )
        .expect("the shipped dataset is valid");
        let mut options = WorkerOptions::new(
            self.kafka.clone(),
            &self.database_url,
            self.stream(),
            Arc::new(dataset),
        );
        options.name = name.to_owned();
        options.discovery = Duration::from_secs(1);
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

    /// Puts pins on the topic, each with a key of its own; every tenth is broken. Waits for every acknowledgement.
    async fn produce(&self, numbers: std::ops::Range<usize>) {
        let producer: FutureProducer = kafka::producer(&self.kafka).create().expect("a producer");
        let mut under_way = Vec::new();
        for number in numbers {
            let key = format!("00000000-0000-4000-8000-{number:012}");
            let mut pin = pin(number % 200);
            pin.insert("unique_id".to_owned(), json!(key));
            let value = if number % 10 == 0 {
                format!("{{\"broken\": {number}").into_bytes()
            } else {
                serde_json::to_vec(&pin).expect("JSON")
            };
            let record = FutureRecord::to(&self.name).key(&key).payload(&value);
            under_way.push(producer.send_result(record).expect("the queue has room"));
        }
        for delivery in under_way {
            delivery
                .await
                .expect("the producer lives")
                .expect("acknowledged");
        }
    }

    async fn until_caught_up(&self) {
        let caught_up = async {
            let ends = live::end_offsets(&self.kafka, &self.name, Duration::from_secs(10))
                .await
                .expect("the broker answers");
            while !live::is_caught_up(&self.pool, &self.name, &self.name, &ends)
                .await
                .expect("Postgres answers")
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, caught_up)
            .await
            .expect("the workers catch up");
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(&self.pool)
            .await
            .expect("a number")
    }

    /// That so many produced pins are there, each once, in every table that counts them.
    async fn assert_each_once(&self, produced: i64) {
        let dead = produced.div_euclid(10) + i64::from(produced % 10 != 0);
        let clean = produced - dead;
        for (sql, wanted) in [
            ("select count(*) from pins", clean),
            ("select count(*) from dead_letter", dead),
            ("select sum(events)::bigint from stream_offset", produced),
            (
                "select sum(events)::bigint from window_count where window_name = 'per_category'",
                clean,
            ),
            (
                "select sum(events)::bigint from window_count where window_name = 'all'",
                clean,
            ),
            (
                "select sum(dead)::bigint from window_count where window_name = 'all'",
                dead,
            ),
            ("select sum(events)::bigint from window_top", clean),
        ] {
            assert_eq!(self.number(sql).await, wanted, "{sql}");
        }
    }
}

struct Running {
    status: watch::Receiver<Status>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    async fn until(&mut self, what: impl FnMut(&Status) -> bool) {
        tokio::time::timeout(PATIENCE, self.status.wait_for(what))
            .await
            .expect("in time")
            .expect("the worker runs");
    }

    async fn until_it_has(&mut self, partitions: usize) {
        self.until(|status| {
            status.state == State::Running && status.partitions.len() == partitions
        })
        .await;
    }

    fn partitions(&self) -> BTreeSet<i32> {
        let status = self.status.borrow();
        status
            .partitions
            .iter()
            .map(|partition| partition.partition)
            .collect()
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("it stops in time")
            .expect("no panic")
            .expect("a clean end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_share_the_partitions_and_hand_them_over() {
    let world = World::new().await;
    world.produce(0..500).await;
    let mut first = world.start("first", |options| options.batch_messages = 53);
    first.until_it_has(4).await;
    first.until(|status| status.events >= 60).await;
    let mut second = world.start("second", |options| options.batch_messages = 31);
    world.produce(500..1_000).await;
    second.until_it_has(2).await;
    first.until_it_has(2).await;
    assert!(first.partitions().is_disjoint(&second.partitions()));
    world.produce(1_000..1_500).await;
    world.until_caught_up().await;
    let streams = live::streams(&world.pool).await.expect("read");
    let workers: BTreeSet<_> = streams[0]
        .workers
        .iter()
        .map(|worker| (worker.owner.as_str(), worker.state()))
        .collect();
    assert_eq!(
        workers,
        BTreeSet::from([("first", "running"), ("second", "running")])
    );
    let owners: BTreeSet<_> = streams[0]
        .partitions
        .iter()
        .map(|partition| partition.owner.as_str())
        .collect();
    assert_eq!(owners.len(), 2);

    first.stop().await;
    second.until_it_has(4).await;
    world.produce(1_500..2_000).await;
    world.until_caught_up().await;
    second.stop().await;
    world.assert_each_once(2_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_come_and_go_at_any_moment_lose_and_double_nothing() {
    let world = World::new().await;
    world.produce(0..3_000).await;
    let mut running = Vec::new();
    for round in 0_usize..6 {
        let name = format!("worker {round}");
        let mut worker = world.start(&name, |options| options.batch_messages = 23 + round);
        worker
            .until(|status| status.state == State::Running && !status.partitions.is_empty())
            .await;
        running.push(worker);
        if running.len() > 2 {
            let oldest = running.remove(0);
            if round % 2 == 0 {
                oldest.stop().await;
            } else {
                // Nothing gets the time to clean up.
                oldest.task.abort();
                assert!(oldest.task.await.is_err_and(|error| error.is_cancelled()));
            }
        }
    }
    world.until_caught_up().await;
    for worker in running {
        worker.stop().await;
    }
    world.assert_each_once(3_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vanished_worker_held_goes_to_its_namesake_or_after_its_session_to_any() {
    let world = World::new().await;
    world.produce(0..200).await;
    let lasting = |options: &mut WorkerOptions| options.instance = Some("lasting".to_owned());
    for (number, name) in ["first", "second"].into_iter().enumerate() {
        let mut worker = world.start(name, lasting);
        worker.until_it_has(4).await;
        world.until_caught_up().await;
        // A member with a lasting name does not leave its group when it ends: for the broker it is as if it were killed.
        worker.task.abort();
        assert!(worker.task.await.is_err_and(|error| error.is_cancelled()));
        world.produce((number + 1) * 200..(number + 2) * 200).await;
    }
    let mut worker = world.start("third", |_| {});
    worker.until_it_has(4).await;
    world.until_caught_up().await;
    worker.stop().await;
    world.assert_each_once(600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_partition_was_taken_joins_anew_and_writes_nothing_twice() {
    let world = World::new().await;
    world.produce(0..200).await;
    let mut worker = world.start("fenced", |_| {});
    worker.until_it_has(4).await;
    world.until_caught_up().await;
    // What another worker does whom the group gave the partitions, while this one does not know it yet.
    let database = Database {
        sink: sink::Sink::new(world.pool.clone()),
        pool: world.pool.clone(),
    };
    let found = (0..4).map(|partition| (partition, 0)).collect();
    let dataset = Arc::clone(&plan_of(STREAM).dataset);
    let plan = Plan::new(world.stream(), dataset).expect("it fits");
    let taken = database
        .sink
        .take(&plan, "another", &found)
        .await
        .expect("taken");
    assert!(taken.values().all(|held| held.generation == 2));
    worker.until(|status| status.state == State::Waiting).await;
    assert!(
        worker
            .status
            .borrow()
            .problem
            .as_ref()
            .is_some_and(|problem| problem.contains("another worker has taken"))
    );
    worker.until_it_has(4).await;
    world.produce(200..400).await;
    world.until_caught_up().await;
    worker.stop().await;
    world.assert_each_once(400).await;
    assert_eq!(
        world
            .number("select min(generation) from stream_offset")
            .await,
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_group_a_second_worker_takes_all_and_the_first_stops() {
    let world = World::new().await;
    let alone = |options: &mut WorkerOptions| options.stream.group_protocol = GroupProtocol::None;
    world.produce(0..100).await;
    let mut first = world.start("first", alone);
    first.until_it_has(4).await;
    let mut second = world.start("second", alone);
    second.until_it_has(4).await;
    world.produce(100..200).await;
    let ended = tokio::time::timeout(PATIENCE, first.task)
        .await
        .expect("in time")
        .expect("no panic");
    assert!(matches!(ended, Err(Error::Fenced { .. })), "{ended:?}");
    world.until_caught_up().await;
    second.stop().await;
    world.assert_each_once(200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_may_go_to_a_topic_with_their_place() {
    let world = World::new().await;
    world.produce(0..100).await;
    let worker = world.start("a", |options| {
        let topic = format!("{}-dead", options.stream.topic);
        options.stream.dead_letters = DeadLetterSink::Topic(topic);
    });
    world.until_caught_up().await;
    worker.stop().await;
    assert_eq!(world.number("select count(*) from dead_letter").await, 0);
    assert_eq!(
        world
            .number("select sum(dead_letters)::bigint from stream_offset")
            .await,
        10
    );
    let (kafka, topic) = (world.kafka.clone(), format!("{}-dead", world.name));
    let letters = tokio::task::spawn_blocking(move || read_dead(&kafka, &topic, 10))
        .await
        .expect("read");
    let bodies: BTreeSet<_> = letters.iter().map(|(_, raw)| raw.clone()).collect();
    let wanted: BTreeSet<_> = (0..100)
        .step_by(10)
        .map(|number| format!("{{\"broken\": {number}").into_bytes())
        .collect();
    assert_eq!(bodies, wanted);
    for (headers, _) in &letters {
        assert_eq!(headers["pinwheel-topic"], world.name);
        assert_eq!(headers["pinwheel-rule"], "not_json");
        assert!(headers["pinwheel-offset"].parse::<i64>().is_ok());
    }
}

#[cfg(feature = "real-services")]
#[tokio::test(flavor = "multi_thread")]
async fn markers_and_aborted_records_at_the_end_are_no_lag() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    let world = World::new().await;
    let mut worker = world.start("a", |_| {});
    worker.until_it_has(4).await;
    let mut config = kafka::producer(&world.kafka);
    config.set("transactional.id", &world.name);
    let name = world.name.clone();
    let produce = move || {
        let producer: BaseProducer = config.create().expect("a producer");
        producer.init_transactions(PATIENCE).expect("ready");
        for (round, keys) in [0..40, 40..80, 80..120].into_iter().enumerate() {
            producer.begin_transaction().expect("begun");
            for key in keys {
                let value = format!("{{\"broken\": {key}");
                let record = BaseRecord::to(&name)
                    .partition(key % 4)
                    .key("key")
                    .payload(&value);
                producer.send(record).expect("the queue has room");
            }
            if round == 1 {
                producer.commit_transaction(PATIENCE).expect("committed");
            } else {
                producer.flush(PATIENCE).expect("sent");
                producer.abort_transaction(PATIENCE).expect("aborted");
            }
        }
    };
    tokio::task::spawn_blocking(produce)
        .await
        .expect("produced");
    world.until_caught_up().await;
    worker.until(|status| status.lag() == Some(0)).await;
    worker.stop().await;
    assert_eq!(world.number("select count(*) from dead_letter").await, 40);
    // What is passed over is not read again, nor anything behind it.
    let mut worker = world.start("b", |_| {});
    worker.until_it_has(4).await;
    world.produce(0..10).await;
    world.until_caught_up().await;
    worker.stop().await;
    assert_eq!(
        world
            .number("select sum(events)::bigint from stream_offset")
            .await,
        50
    );
}

/// Prints how fast one worker drains a topic; `docs/PERFORMANCE.md` says how to run it.
#[cfg(feature = "real-services")]
#[tokio::test(flavor = "multi_thread")]
async fn one_worker_drains_a_topic() {
    const EVENTS: usize = 200_000;
    let world = World::new().await;
    for first in (0..EVENTS).step_by(20_000) {
        world.produce(first..first + 20_000).await;
    }
    for posts in [None, Some("pins".to_owned())] {
        let began = std::time::Instant::now();
        let worker = world.start("a", |options| {
            options.stream.id = format!("pins_{}", posts.is_some());
            options.stream.posts.clone_from(&posts);
        });
        let mut status = worker.status.clone();
        status
            .wait_for(|status| status.events >= EVENTS as u64)
            .await
            .expect("it runs");
        let rate = EVENTS as f64 / began.elapsed().as_secs_f64();
        println!("posts {posts:?}: {rate:.0} events/s, joining the group included");
        worker.stop().await;
    }
    assert_eq!(
        world
            .number("select sum(events)::bigint from stream_offset")
            .await,
        2 * EVENTS as i64
    );
}

type Letter = (BTreeMap<String, String>, Vec<u8>);

fn read_dead(kafka: &KafkaSettings, topic: &str, number: usize) -> Vec<Letter> {
    let consumer: BaseConsumer = kafka::reader(kafka, "a test").create().expect("a consumer");
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(topic, 0, Offset::Beginning)
        .expect("an offset");
    consumer.assign(&assignment).expect("assigned");
    let mut letters = Vec::new();
    let began = std::time::Instant::now();
    while letters.len() < number {
        assert!(began.elapsed() < PATIENCE, "{} letters", letters.len());
        let Some(Ok(message)) = consumer.poll(Duration::from_secs(10)) else {
            continue;
        };
        let headers = message
            .headers()
            .expect("headers")
            .iter()
            .map(|header| {
                let value = header.value.expect("a value").to_vec();
                (
                    header.key.to_owned(),
                    String::from_utf8(value).expect("UTF-8"),
                )
            })
            .collect();
        letters.push((headers, message.payload().expect("a value").to_vec()));
    }
    letters
}
