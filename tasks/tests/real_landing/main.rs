//! What the embedded broker cannot do, against Apache Kafka: transactions, new partitions, large records. `make test-real`
//! starts it and names it in `PINWHEEL_TEST_KAFKA`; no part of `cargo test`.

#[allow(dead_code, reason = "the tests on embedded services use more of it")]
#[path = "../landing/world.rs"]
mod world;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use pinwheel_tasks::{FailureClass, KafkaSettings, kafka};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{FutureProducer, Producer},
};
use serde_json::json;

use crate::world::{Landed, PARTITIONS, World, deliver, record, small_chunks};

const PATIENCE: Duration = Duration::from_secs(30);

fn brokers() -> String {
    std::env::var("PINWHEEL_TEST_KAFKA").expect("`make test-real` names the broker")
}

fn own_topic() -> String {
    format!("pins-{}", uuid::Uuid::new_v4().simple())
}

async fn world() -> World {
    World::over(brokers(), None, &own_topic(), PARTITIONS).await
}

/// A world whose topic takes records of up to 30 MB, and a producer of such.
async fn world_of_large_records(partitions: i32) -> (World, FutureProducer) {
    let settings = KafkaSettings {
        brokers: brokers(),
        properties: BTreeMap::new(),
    };
    let admin: AdminClient<DefaultClientContext> = kafka::client(&settings)
        .create()
        .expect("the settings are fine");
    let topic = own_topic();
    let new = NewTopic::new(&topic, partitions, TopicReplication::Fixed(1))
        .set("max.message.bytes", "30000000");
    let made = admin.create_topics([&new], &AdminOptions::new()).await;
    assert!(made.expect("the broker answers").iter().all(Result::is_ok));
    let producer = kafka::producer(&settings)
        .set("message.max.bytes", "30000000")
        .set("compression.type", "none")
        .create()
        .expect("the settings are fine");
    let world = World::over(brokers(), None, &topic, partitions).await;
    (world, producer)
}

/// A record of so many bytes, of which no two parts are the same.
fn large(bytes: u32) -> Landed {
    let mut large = record(4);
    let words = (0..bytes / 4).flat_map(|word| word.wrapping_mul(2_654_435_761).to_be_bytes());
    large.value = Some(words.collect());
    large
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_many_megabytes_land_among_small_ones() {
    let (mut world, producer) = world_of_large_records(PARTITIONS).await;
    world.produce(30).await;
    let records = vec![
        (0, large(5_000_000)),
        (1, large(20_000_000)),
        (1, large(5_000_000)),
    ];
    world.send(&producer, records).await;
    world.produce(30).await;
    let with = json!({ "max_chunk_bytes": 1_000_000 });
    let output = world.try_once(&world.kind(), 1, with).await;
    assert_eq!(output.expect("it lands")["records"], json!(63));
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_client_does_not_take_is_named_with_what_to_set() {
    let (mut world, producer) = world_of_large_records(PARTITIONS).await;
    world.produce(30).await;
    world.send(&producer, vec![(2, large(5_000_000))]).await;
    for (name, value) in [
        ("fetch.max.bytes", "1000000"),
        ("receive.message.max.bytes", "2000000"),
    ] {
        let properties = &mut world.kafka.properties;
        properties.insert(name.to_owned(), value.to_owned());
    }
    let failure = world
        .try_once(&world.kind(), 1, small_chunks())
        .await
        .expect_err("it is too large");
    assert_eq!(failure.class, FailureClass::Permanent);
    let expected = format!(
        "the record at offset 10 of partition 2 of topic `{}`, or the batch that it came in, is larger than the Kafka client takes",
        world.topic
    );
    assert!(failure.message.starts_with(&expected), "{failure}");
    let hint = failure.hint.expect("a hint");
    assert!(hint.contains("`receive.message.max.bytes`"), "{hint}");
    world.kafka.properties.clear();
    assert_eq!(world.land(1).await["records"], json!(31));
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_partitions_of_large_records_keep_to_the_memory_of_a_landing() {
    let (mut world, producer) = world_of_large_records(64).await;
    for _ in 0..2 {
        let records = (0..64).map(|partition| (partition, large(3_000_000)));
        world.send(&producer, records.collect()).await;
    }
    let (grew, output) = world.measure_child(1, &json!({ "memory_mb": 64 })).await;
    assert_eq!(output["records"], json!(128));
    // There are 384 MB to land. A client and what its broker answered cost a little beside what is counted.
    assert!(grew < 192 * 1024 * 1024, "{} MB", grew / 1024 / 1024);
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_landing_up_to_a_moment_ends_there_and_not_in_an_open_transaction() {
    let mut world = world().await;
    let producer = transactional(&world);
    let until = |number| {
        let milliseconds = record(number).timestamp.expect("it has one");
        let moment = DateTime::<Utc>::from_timestamp_millis(milliseconds).expect("a moment");
        json!({ "until": moment.to_rfc3339() })
    };
    // Records of tests are an hour old; the marker of a transaction is as old as its end.
    let tomorrow = || json!({ "until": (Utc::now() + TimeDelta::days(1)).to_rfc3339() });
    producer.begin_transaction().expect("it begins");
    let records = (0..10).map(|number| (0, record(number)));
    world.send(&producer, records.collect()).await;
    producer.commit_transaction(PATIENCE).expect("committed");
    producer.begin_transaction().expect("it begins");
    let records = (10..20).map(|number| (0, record(number)));
    world.send(&producer, records.collect()).await;

    let land = async |run, with| {
        let output = world.try_once(&world.kind(), run, with).await;
        output.expect("it lands")["records"].clone()
    };
    assert_eq!(land(1, until(4)).await, json!(4));
    assert_eq!(land(2, tomorrow()).await, json!(6), "the rest is open");
    producer.commit_transaction(PATIENCE).expect("committed");
    assert_eq!(
        land(3, until(15)).await,
        json!(0),
        "they stand behind a marker"
    );
    assert_eq!(land(4, tomorrow()).await, json!(10));
    world.assert_each_record_landed_once().await;
}

fn transactional(world: &World) -> FutureProducer {
    let producer: FutureProducer = kafka::producer(&world.kafka)
        .set("transactional.id", &world.topic)
        .create()
        .expect("the settings are fine");
    producer
        .init_transactions(PATIENCE)
        .expect("the broker knows transactions");
    producer
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_records_never_land_and_an_open_transaction_holds_the_end_back() {
    let mut world = world().await;
    let producer = transactional(&world);
    producer.begin_transaction().expect("it begins");
    world.produce_with(&producer, 300).await;
    producer.commit_transaction(PATIENCE).expect("committed");
    producer.begin_transaction().expect("it begins");
    let aborted = (0..90)
        .map(|number| (number % PARTITIONS, record(3)))
        .collect();
    deliver(&producer, &world.topic, aborted).await;
    producer.abort_transaction(PATIENCE).expect("aborted");
    // The plan ends in aborted records and markers, which nobody is handed.
    assert_eq!(world.land(1).await["records"], json!(300));
    world.assert_each_record_landed_once().await;

    producer.begin_transaction().expect("it begins");
    world.produce_with(&producer, 30).await;
    assert_eq!(world.land(2).await["records"], json!(0));
    producer.commit_transaction(PATIENCE).expect("committed");
    assert_eq!(world.land(3).await["records"], json!(30));
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_comes_later_is_landed_from_its_start() {
    let mut world = world().await;
    world.produce(30).await;
    world.land(1).await;
    let admin: AdminClient<DefaultClientContext> = kafka::client(&world.kafka)
        .create()
        .expect("the settings are fine");
    let count = usize::try_from(PARTITIONS + 1).expect("small");
    admin
        .create_partitions(
            [&NewPartitions::new(&world.topic, count)],
            &AdminOptions::new(),
        )
        .await
        .expect("the broker makes one more");
    let producer = world.producer();
    let records = (0..20).map(|number| (PARTITIONS, record(number))).collect();
    world.send(&producer, records).await;
    assert_eq!(world.land(2).await["records"], json!(20));
    world.assert_each_record_landed_once().await;
}
