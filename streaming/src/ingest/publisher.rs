//! The way to the topic: one idempotent producer, and a monitor that knows whether the broker is there, so that a post
//! is refused at once while it is not.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use pinwheel_tasks::{KafkaSettings, kafka as client};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{FutureProducer, FutureRecord, Producer, future_producer::DeliveryFuture},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    kafka::{self, Quiet},
    metrics,
};

/// How often the monitor looks at a broker that answers.
const LOOK: Duration = Duration::from_secs(5);
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);

type Client = FutureProducer<Quiet>;

/// What the monitor last saw.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Health {
    /// The broker answers and the topic exists.
    Ready,
    /// Nothing can be published now.
    Away { reason: String },
}

/// Where an acknowledged message is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// Why a message is not on the topic.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Refused {
    /// The broker is away or does not acknowledge in time.
    Away { reason: String },
    /// The local queue is full.
    Full,
}

pub(super) struct Publisher {
    settings: KafkaSettings,
    topic: String,
    partitions: i32,
    replication: i32,
    delivery_timeout: Duration,
    queue_bytes: usize,
    context: Quiet,
    /// Replaced when librdkafka declares a producer dead (a fatal error of the idempotent producer).
    client: RwLock<Client>,
    health: watch::Sender<Health>,
}

impl Publisher {
    pub(super) fn new(
        settings: KafkaSettings,
        topic: String,
        partitions: i32,
        replication: i32,
        delivery_timeout: Duration,
        queue_bytes: usize,
    ) -> Result<Self, KafkaError> {
        let context = Quiet::default();
        let client = producer(&settings, delivery_timeout, queue_bytes, &context)?;
        let reason = format!("no answer from `{}` yet", settings.brokers);
        Ok(Self {
            settings,
            topic,
            partitions,
            replication,
            delivery_timeout,
            queue_bytes,
            context,
            client: RwLock::new(client),
            health: watch::Sender::new(Health::Away { reason }),
        })
    }

    pub(super) fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// Puts one message on its way. The future ends within the delivery time-out, whatever happens.
    pub(super) fn enqueue(&self, key: &str, body: &[u8]) -> Result<DeliveryFuture, Refused> {
        if let Health::Away { reason } = &*self.health.borrow() {
            return Err(Refused::Away {
                reason: reason.clone(),
            });
        }
        let record = FutureRecord::to(&self.topic).key(key).payload(body);
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner);
        client
            .send_result(record)
            .map_err(|(error, _)| self.refusal(&error))
    }

    /// Waits for the broker's word on a message.
    pub(super) async fn acknowledged(&self, delivery: DeliveryFuture) -> Result<Place, Refused> {
        match delivery.await {
            Ok(Ok(delivery)) => Ok(Place {
                partition: delivery.partition,
                offset: delivery.offset,
            }),
            Ok(Err((error, _))) => Err(self.refusal(&error)),
            Err(_) => Err(Refused::Away {
                reason: "the producer was replaced after an error it could not recover from"
                    .to_owned(),
            }),
        }
    }

    fn refusal(&self, error: &KafkaError) -> Refused {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
            return Refused::Full;
        }
        self.context.trouble.notify_one();
        Refused::Away {
            reason: error
                .rdkafka_error_code()
                .map_or_else(|| error.to_string(), |code| code.to_string()),
        }
    }

    /// Waits for everything that is under way. Blocks.
    pub(super) fn flush(&self, limit: Duration) -> Result<(), KafkaError> {
        self.client().flush(limit)
    }

    fn client(&self) -> Client {
        self.client
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Watches the broker until told to stop: makes the topic, says once what is wrong and once that it is over.
    pub(super) async fn monitor(
        self: Arc<Self>,
        metrics: metrics::Ingest,
        shutdown: CancellationToken,
    ) {
        let mut backoff = Backoff::new();
        let mut topic_exists = false;
        loop {
            let looked = {
                let publisher = Arc::clone(&self);
                kafka::blocking(move || publisher.look(topic_exists)).await
            };
            let looked = match looked {
                Ok(Topic::Exists) => Ok(()),
                Ok(Topic::Missing) => self.create_topic().await,
                Err(reason) => Err(reason),
            };
            let wait = match looked {
                Ok(()) => {
                    topic_exists = true;
                    backoff.reset();
                    self.become_healthy(&metrics);
                    LOOK
                }
                Err(reason) => {
                    self.become_away(reason, &metrics);
                    backoff.next()
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = self.context.trouble.notified(), if self.health() == Health::Ready => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn become_healthy(&self, metrics: &metrics::Ingest) {
        metrics.broker_up.set(1);
        let was = self.health.send_replace(Health::Ready);
        if was != Health::Ready {
            tracing::info!(
                brokers = self.settings.brokers,
                topic = self.topic,
                "ingest: the broker answers, posts are accepted"
            );
        }
    }

    fn become_away(&self, reason: String, metrics: &metrics::Ingest) {
        metrics.broker_up.set(0);
        let said =
            matches!(&*self.health.borrow(), Health::Away { reason: before } if *before == reason);
        if !said {
            tracing::warn!(
                brokers = self.settings.brokers,
                topic = self.topic,
                reason,
                "ingest: cannot reach Kafka at `kafka.brokers`, posts are answered with 503 until it is back"
            );
        }
        self.health.send_replace(Health::Away { reason });
    }

    /// Asks the broker for its topics. Blocks.
    fn look(&self, topic_exists: bool) -> Result<Topic, String> {
        let client = self.client();
        if let Some((code, reason)) = client.client().fatal_error() {
            tracing::warn!(%code, reason, "ingest: the producer gave up and is replaced: {reason}");
            let fresh = producer(
                &self.settings,
                self.delivery_timeout,
                self.queue_bytes,
                &self.context,
            )
            .map_err(|error| error.to_string())?;
            *self.client.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
        // Asking for one unknown topic makes some brokers create it with their own number of partitions; asking for
        // all does not.
        let wanted = topic_exists.then_some(self.topic.as_str());
        let metadata = client
            .client()
            .fetch_metadata(wanted, METADATA_TIMEOUT)
            .map_err(|error| {
                let why = error
                    .rdkafka_error_code()
                    .map_or_else(|| error.to_string(), |code| code.to_string());
                format!("no answer from `{}`: {why}", self.settings.brokers)
            })?;
        let topic = metadata
            .topics()
            .iter()
            .find(|topic| topic.name() == self.topic);
        match topic {
            None => Ok(Topic::Missing),
            Some(topic) => match topic.error().map(RDKafkaErrorCode::from) {
                None | Some(RDKafkaErrorCode::LeaderNotAvailable) => Ok(Topic::Exists),
                Some(
                    RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic,
                ) => Ok(Topic::Missing),
                Some(code) => Err(format!("topic `{}`: {code}", self.topic)),
            },
        }
    }

    async fn create_topic(&self) -> Result<(), String> {
        let admin: AdminClient<Quiet> = client::client(&self.settings)
            .create_with_context(Quiet::default())
            .map_err(|error| error.to_string())?;
        let topic = NewTopic::new(
            &self.topic,
            self.partitions,
            TopicReplication::Fixed(self.replication),
        );
        let options = AdminOptions::new()
            .operation_timeout(Some(METADATA_TIMEOUT))
            .request_timeout(Some(METADATA_TIMEOUT * 2));
        let created = admin.create_topics([&topic], &options).await;
        // Dropping a client joins its thread.
        kafka::blocking(move || drop(admin)).await;
        match created
            .map_err(|error| format!("topic `{}` cannot be created: {error}", self.topic))?
            .pop()
        {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code))) => {
                Err(format!("topic `{}` cannot be created: {code}", self.topic))
            }
            Some(Ok(_)) | None => {
                tracing::info!(
                    topic = self.topic,
                    partitions = self.partitions,
                    "ingest: created topic `{}`",
                    self.topic
                );
                Ok(())
            }
        }
    }
}

enum Topic {
    Exists,
    Missing,
}

/// It lingers for the 5 milliseconds of every producer here. With less, a broker that takes longer than five times that has all the
/// requests of a partition under way that an idempotent producer may have; librdkafka then polls without a pause until one
/// is answered, which took up to 0.4 of the process when the machine was busy.
fn producer(
    settings: &KafkaSettings,
    delivery_timeout: Duration,
    queue_bytes: usize,
    context: &Quiet,
) -> Result<Client, KafkaError> {
    let mut config = client::producer(settings);
    config
        .set(
            "message.timeout.ms",
            delivery_timeout.as_millis().to_string(),
        )
        .set("queue.buffering.max.messages", "100000")
        .set(
            "queue.buffering.max.kbytes",
            (queue_bytes / 1024).max(1).to_string(),
        );
    config.create_with_context(context.clone())
}
