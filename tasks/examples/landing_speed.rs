//! Measures a landing against a bare drain of the same topic, in turns: `landing_speed BROKERS S3_ENDPOINT TOPIC MESSAGES ROUNDS`.
//! The topic is filled first when it has fewer messages. Prints one line of JSON a round.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use pinwheel_tasks::{
    Context, Instance, KafkaSettings, KafkaToS3, Kind, Log, NoConnections, Outcome, S3Addressing,
    S3Credentials, S3Settings, kafka, s3::ObjectStore,
};
use pinwheel_test_support::durable::Ledger;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

const PARTITIONS: i32 = 4;
const PATIENCE: Duration = Duration::from_secs(30);
const PINS: &str = include_str!("../../data/pins.ndjson");

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, endpoint, topic, messages, rounds] = &arguments[..] else {
        panic!("landing_speed BROKERS S3_ENDPOINT TOPIC MESSAGES ROUNDS");
    };
    let messages: i64 = messages.parse().expect("a number");
    let kafka = KafkaSettings {
        brokers: brokers.clone(),
        properties: BTreeMap::new(),
    };
    kafka::ensure_topic(&kafka, topic, PARTITIONS)
        .await
        .expect("the broker answers");
    fill(&kafka, topic, messages);
    let s3 = S3Settings {
        endpoint: Some(endpoint.clone()),
        region: "us-east-1".to_owned(),
        credentials: Some(S3Credentials {
            access_key_id: "test".to_owned(),
            secret_access_key: "testsecret123".to_owned(),
        }),
        addressing: S3Addressing::Path,
    };
    let store = ObjectStore::connect(&s3).await;
    store.ensure_bucket("speed").await.expect("a bucket");
    let kind = KafkaToS3::new(kafka.clone(), s3);
    for round in 0..rounds.parse().expect("a number") {
        let drained = drain(&kafka, topic);
        let cpu = cpu_seconds();
        let began = Instant::now();
        let output = land(&kind, topic, round).await;
        let landed = began.elapsed().as_secs_f64();
        let cpu = cpu_seconds() - cpu;
        let records = output["records"].as_f64().expect("a count");
        let keys = pinwheel_tasks::s3::Location::new("speed", "");
        for key in store.list(&keys).await.expect("listed") {
            let at = pinwheel_tasks::s3::Location::new("speed", key);
            store.delete(&at).await.expect("deleted");
        }
        println!(
            "{}",
            json!({
                "drain_per_s": drained.round(),
                "landing_per_s": (records / landed).round(),
                "landing_of_drain": records / landed / drained,
                "cpu_us_per_record": cpu * 1e6 / records,
                "objects": output["objects"], "bytes": output["bytes"], "peak_mb": peak_mb(),
            })
        );
    }
}

fn fill(kafka: &KafkaSettings, topic: &str, messages: i64) {
    let reader: BaseConsumer = kafka::reader(kafka, "speed").create().expect("settings");
    let held: i64 = (0..PARTITIONS)
        .map(|partition| {
            let (low, high) = reader
                .fetch_watermarks(topic, partition, PATIENCE)
                .expect("the broker answers");
            high - low
        })
        .sum();
    let producer: ThreadedProducer<DefaultProducerContext> = kafka::producer(kafka)
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .expect("settings");
    let pins: Vec<&str> = PINS.lines().collect();
    for number in held..messages {
        let pin = pins[usize::try_from(number).expect("positive") % pins.len()];
        let value = format!("{{\"n\": {number}, {}", &pin[1..]);
        let key = format!("{number:08x}-0000-4000-8000-{number:012x}");
        let mut record = BaseRecord::to(topic)
            .partition((number % i64::from(PARTITIONS)) as i32)
            .key(&key)
            .payload(&value);
        while let Err((_, back)) = producer.send(record) {
            std::thread::sleep(Duration::from_millis(20));
            record = back;
        }
    }
    producer.flush(PATIENCE * 10).expect("all is delivered");
}

/// Reads every partition and throws it away; messages a second.
fn drain(kafka: &KafkaSettings, topic: &str) -> f64 {
    let began = Instant::now();
    let threads: Vec<_> = (0..PARTITIONS)
        .map(|partition| {
            let (kafka, topic) = (kafka.clone(), topic.to_owned());
            std::thread::spawn(move || {
                let consumer: BaseConsumer =
                    kafka::reader(&kafka, "speed").create().expect("settings");
                let (low, high) = consumer
                    .fetch_watermarks(&topic, partition, PATIENCE)
                    .expect("the broker answers");
                let mut at = TopicPartitionList::new();
                at.add_partition_offset(&topic, partition, Offset::Offset(low))
                    .expect("an offset");
                consumer.assign(&at).expect("assigned");
                let mut count = 0_u64;
                loop {
                    match consumer.poll(PATIENCE) {
                        Some(Ok(message)) => {
                            count += 1;
                            if message.offset() + 1 >= high {
                                return count;
                            }
                        }
                        Some(Err(error)) => panic!("{error}"),
                        None => panic!("nothing comes"),
                    }
                }
            })
        })
        .collect();
    let count: u64 = threads
        .into_iter()
        .map(|thread| thread.join().expect("it ends"))
        .sum();
    count as f64 / began.elapsed().as_secs_f64()
}

async fn land(kind: &KafkaToS3, topic: &str, round: i64) -> Value {
    let (log, mut lines) = Log::channel(100);
    tokio::spawn(async move { while lines.recv().await.is_some() {} });
    let now = Utc::now();
    let context = Context {
        instance: Arc::new(Instance {
            dag_id: "speed".to_owned(),
            run_id: round,
            task_id: "land".to_owned(),
            instance_id: round,
            try_number: 1,
            logical_date: now,
            data_interval_start: now,
            data_interval_end: now,
            params: Map::new(),
        }),
        log,
        cancel: CancellationToken::new(),
        durable: Ledger::default().of_instance(round),
        orchestrator: Arc::new(pinwheel_tasks::Alone),
        connections: Arc::new(NoConnections),
        resume: None,
    };
    let with = json!({ "topic": topic, "bucket": "speed", "prefix": "landing" });
    let with = with.as_object().expect("a table").clone();
    match kind.run(&context, with).await.expect("it lands") {
        Outcome::Success { output } => output,
        other => panic!("{other:?}"),
    }
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .expect("a name")
        .split_whitespace()
        .collect();
    let ticks: f64 =
        fields[11].parse::<f64>().expect("a number") + fields[12].parse::<f64>().expect("a number");
    ticks / 100.0
}

fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .expect("Linux");
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}
