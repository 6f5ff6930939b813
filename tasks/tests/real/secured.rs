//! Apache Kafka that wants TLS and a password.

use std::{collections::BTreeMap, fs, time::Duration};

use pinwheel_tasks::{FailureClass, KafkaSettings, KafkaToS3, kafka, s3::ObjectStore};
use pinwheel_test_support::{kafka::Kafka, s3::S3, tls::Identity};
use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    message::Message,
    producer::{FutureProducer, FutureRecord},
    topic_partition_list::{Offset, TopicPartitionList},
};
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn a_kafka_that_wants_tls_and_a_password_is_reached_as_the_properties_say() {
    let identity = Identity::of_localhost();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("server.pem");
    fs::write(&store, format!("{}{}", identity.key, identity.certificate)).unwrap();
    let authority = folder.path().join("authority.pem");
    fs::write(&authority, &identity.authority).unwrap();
    let module = "org.apache.kafka.common.security";
    let properties = format!(
        "sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN\n\
         sasl.mechanism.inter.broker.protocol=PLAIN\n\
         listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;\n\
         listener.name.sasl_ssl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required username=\"broker\" password=\"b-secret\" user_broker=\"b-secret\" user_ada=\"plain-secret\";\n\
         ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}",
        store.display(),
        authority.display()
    );
    let broker = tokio::task::spawn_blocking(move || {
        Kafka::start(&[
            ("PINWHEEL_KAFKA_LISTENER", "SASL_SSL"),
            ("PINWHEEL_KAFKA_PROPERTIES", &properties),
            (
                "PINWHEEL_KAFKA_FORMAT",
                "--add-scram SCRAM-SHA-512=[name=ada,password=scram-secret]",
            ),
        ])
    })
    .await
    .unwrap();
    let settings = |mechanism: &str, password: &str, trusts: bool| {
        let mut properties = BTreeMap::new();
        let mut set =
            |name: &str, value: &str| properties.insert(name.to_owned(), value.to_owned());
        set("security.protocol", "SASL_SSL");
        set("sasl.mechanisms", mechanism);
        set("sasl.username", "ada");
        set("sasl.password", password);
        if trusts {
            set("ssl.ca.location", authority.to_str().unwrap());
        }
        KafkaSettings {
            brokers: broker.brokers(),
            properties,
        }
    };
    let patience = Duration::from_secs(30);
    let scram = settings("SCRAM-SHA-512", "scram-secret", true);
    kafka::ping(&scram, patience).await.unwrap();
    kafka::ping(&settings("PLAIN", "plain-secret", true), patience)
        .await
        .unwrap();
    kafka::ensure_topic(&scram, "pins", 1).await.unwrap();
    let producer: FutureProducer = kafka::producer(&scram).create().unwrap();
    let record = FutureRecord::<str, str>::to("pins").payload("sealed");
    producer.send(record, patience).await.unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = kafka::reader(&scram, "group").create().unwrap();
        let mut all = TopicPartitionList::new();
        all.add_partition_offset("pins", 0, Offset::Beginning)
            .unwrap();
        consumer.assign(&all).unwrap();
        let message = consumer.poll(patience).unwrap().unwrap();
        message.payload().unwrap().to_vec()
    });
    assert_eq!(read.await.unwrap(), b"sealed");

    // A wrong password, and a server that nobody vouches for: the failure says which, and so does a task's.
    let wrong = settings("SCRAM-SHA-512", "hunter2", true);
    let untrusted = settings("SCRAM-SHA-512", "scram-secret", false);
    let patience = Duration::from_secs(10);
    let store = S3::start().await;
    ObjectStore::connect(store.settings())
        .await
        .ensure_bucket("lake")
        .await
        .unwrap();
    let landing = KafkaToS3::new(wrong.clone(), store.settings().clone());
    let with = json!({"topic": "pins", "bucket": "lake", "prefix": "raw"});
    for (failure, reason) in [
        (
            kafka::ping(&wrong, patience).await.unwrap_err(),
            "SASL authentication error",
        ),
        (
            kafka::ping(&untrusted, patience).await.unwrap_err(),
            "certificate verify failed",
        ),
        (
            World::new().run(&landing, with).await.unwrap_err(),
            "SASL authentication error",
        ),
    ] {
        assert_eq!(failure.class, FailureClass::Retryable, "{failure}");
        assert!(failure.message.contains(reason), "{failure}");
        assert!(!failure.message.contains("hunter2"), "{failure}");
        let hint = failure.hint.as_deref().unwrap_or_default();
        assert!(hint.contains("kafka.properties"), "{hint}");
    }
}
