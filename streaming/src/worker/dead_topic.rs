//! Dead letters on a topic: the raw key and value, with the place and the rule in the headers.
//!
//! They are acknowledged before the batch that holds them is committed. A worker that ends in between puts them there again, so
//! a reader that must not see one twice looks at the place.

use futures::future::try_join_all;
use pinwheel_tasks::{Failure, KafkaSettings, kafka as client};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};

use super::{definition::StreamDefinition, fold::DeadLetter};
use crate::kafka::{self, Quiet};

/// A topic that is made for dead letters has one partition: they are few, and their order is worth something.
const PARTITIONS: i32 = 1;

pub(super) struct DeadTopic {
    producer: FutureProducer<Quiet>,
    topic: String,
}

impl DeadTopic {
    /// Makes the topic unless it exists, and a producer for it.
    pub(super) async fn open(settings: &KafkaSettings, topic: &str) -> Result<Self, Failure> {
        client::ensure_topic(settings, topic, PARTITIONS).await?;
        let mut config = client::producer(settings);
        config.set("message.timeout.ms", "10000");
        let producer = config
            .create_with_context(Quiet::default())
            .map_err(|error| client::failure(settings, "keep dead letters", &error))?;
        Ok(Self {
            producer,
            topic: topic.to_owned(),
        })
    }

    /// Sends dead letters and waits until the broker has them all.
    pub(super) async fn send(
        &self,
        stream: &StreamDefinition,
        letters: Vec<DeadLetter>,
    ) -> Result<(), KafkaError> {
        let mut deliveries = Vec::with_capacity(letters.len());
        for letter in &letters {
            let mut record = FutureRecord::to(&self.topic).headers(headers(stream, letter));
            if let Some(key) = &letter.key {
                record = record.key(key);
            }
            if let Some(raw) = &letter.raw {
                record = record.payload(raw);
            }
            loop {
                match self.producer.send_result(record) {
                    Ok(delivery) => {
                        deliveries.push(delivery);
                        break;
                    }
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                        record = back;
                        // The oldest has left the queue when it is acknowledged.
                        if let Some(oldest) = deliveries.pop() {
                            acknowledged(oldest).await?;
                        }
                    }
                    Err((error, _)) => return Err(error),
                }
            }
        }
        try_join_all(deliveries.into_iter().map(acknowledged)).await?;
        Ok(())
    }

    /// Ends the producer. Dropping it joins its thread.
    pub(super) async fn close(self) {
        kafka::blocking(move || drop(self)).await;
    }
}

async fn acknowledged(delivery: rdkafka::producer::DeliveryFuture) -> Result<(), KafkaError> {
    match delivery.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((error, _))) => Err(error),
        Err(_) => Err(KafkaError::Canceled),
    }
}

fn headers(stream: &StreamDefinition, letter: &DeadLetter) -> OwnedHeaders {
    let (partition, offset) = (letter.partition.to_string(), letter.offset.to_string());
    let known = [
        ("pinwheel-stream", Some(stream.id.as_str())),
        ("pinwheel-topic", Some(stream.topic.as_str())),
        ("pinwheel-partition", Some(partition.as_str())),
        ("pinwheel-offset", Some(offset.as_str())),
        ("pinwheel-stage", Some(letter.stage)),
        ("pinwheel-rule", Some(letter.rule.as_str())),
        ("pinwheel-field", letter.field.as_deref()),
        ("pinwheel-detail", Some(letter.detail.as_str())),
    ];
    known
        .into_iter()
        .filter_map(|(key, value)| {
            Some(Header {
                key,
                value: Some(value?),
            })
        })
        .fold(OwnedHeaders::new(), OwnedHeaders::insert)
}
