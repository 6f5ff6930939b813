//! What the embedded broker cannot do, against Apache Kafka: transactions and new partitions. `make test-real`
//! starts it and names it in `PINWHEEL_TEST_KAFKA`; no part of `cargo test`.

#[allow(dead_code, reason = "the tests on embedded services use more of it")]
#[path = "../landing/world.rs"]
mod world;

use std::time::Duration;

use pinwheel_tasks::kafka;
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
    producer::{FutureProducer, Producer},
};
use serde_json::json;

use crate::world::{PARTITIONS, World, deliver, record};

const PATIENCE: Duration = Duration::from_secs(30);

async fn world() -> World {
    let brokers = std::env::var("PINWHEEL_TEST_KAFKA").expect("`make test-real` names the broker");
    let topic = format!("pins-{}", uuid::Uuid::new_v4().simple());
    World::over(brokers, None, &topic).await
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
