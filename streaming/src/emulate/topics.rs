//! Records straight on their topics, for volume: as fast as the broker takes them, each acknowledged.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use pinwheel_tasks::{KafkaSettings, kafka as client};
use rdkafka::{
    ClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};
use tokio_util::sync::CancellationToken;

use super::{Population, Records, rows::Choice};
use crate::kafka;

/// How long what is under way may take at the end.
const FLUSH: Duration = Duration::from_secs(60);

/// Why not every record is on its topic.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The client cannot be made, or the broker refuses a record for good.
    #[error("cannot produce to `{topic}`: {source}")]
    Kafka {
        /// The topic.
        topic: String,
        /// What librdkafka said.
        source: KafkaError,
    },
    /// Some records were not acknowledged.
    #[error(
        "`{topic}` did not acknowledge {lost} of {sent} records, the last because of: {reason}"
    )]
    Lost {
        /// The topic.
        topic: String,
        /// How many were not acknowledged.
        lost: u64,
        /// How many were sent.
        sent: u64,
        /// The last reason.
        reason: String,
    },
}

/// Which records go where.
#[derive(Clone, Debug)]
pub struct ToTopic {
    /// The rows there are.
    pub population: Arc<Population>,
    /// What is made of each row.
    pub records: Records,
    /// The topic, which must exist unless the broker makes topics by itself.
    pub topic: String,
    /// Records a second; `None` is as fast as the broker takes them, or with the pauses of the rows.
    pub rate: Option<f64>,
}

#[derive(Default)]
struct Acknowledged {
    delivered: AtomicU64,
    lost: AtomicU64,
    reason: std::sync::Mutex<String>,
}

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        match delivered {
            Ok(_) => {
                self.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                if let Ok(mut reason) = self.reason.lock() {
                    *reason = error.to_string();
                }
            }
        }
    }
}

/// Puts one record for every row on the topic, keyed as [`Population::key`] says, and returns how many were acknowledged.
///
/// A stop between two records ends it early; what was sent is still waited for.
///
/// # Errors
///
/// When the broker does not acknowledge everything.
pub async fn produce(
    settings: &KafkaSettings,
    what: ToTopic,
    steps: impl Iterator<Item = Choice> + Send + 'static,
    progress: impl Fn(u64) + Send + 'static,
    shutdown: CancellationToken,
) -> Result<u64, TopicError> {
    let mut config = client::producer(settings);
    for (name, value) in [
        ("queue.buffering.max.messages", "500000"),
        ("queue.buffering.max.kbytes", "65536"),
    ] {
        if !settings.properties.contains_key(name) {
            config.set(name, value);
        }
    }
    kafka::blocking(move || {
        let failed = |source| TopicError::Kafka {
            topic: what.topic.clone(),
            source,
        };
        let producer: BaseProducer<Acknowledged> = config
            .create_with_context(Acknowledged::default())
            .map_err(failed)?;
        let mut value = Vec::with_capacity(1024);
        let mut start = Instant::now();
        let mut sent = 0u64;
        let mut pauses = Duration::ZERO;
        for Choice { pause, row } in steps {
            pauses += pause;
            let due = match what.rate {
                Some(rate) => Duration::from_secs_f64(sent as f64 / rate),
                None => pauses,
            };
            wait_until(&producer, start + due, &shutdown);
            if shutdown.is_cancelled() {
                break;
            }
            value.clear();
            what.population.write(what.records, row, &mut value);
            let key = what.population.key(what.records, row);
            while enqueue(&producer, &what.topic, &key, &value)
                .map_err(failed)?
                .is_continue()
            {
                producer.poll(Duration::from_millis(20));
            }
            sent += 1;
            if sent == 1 && what.rate.is_some() {
                // A client connects and asks for its number with its first record, which takes up to a second. The clock of a rate
                // runs from there, or all records of that second would leave at once and late.
                let _said_at_the_end = producer.flush(FLUSH);
                start = Instant::now();
            }
            if sent.is_multiple_of(1000) {
                producer.poll(Duration::ZERO);
                progress(sent);
            }
        }
        // What is still under way then counts as lost: nobody knows.
        let flushed = producer.flush(FLUSH);
        let told = producer.context();
        let delivered = told.delivered.load(Ordering::Relaxed);
        progress(delivered);
        if delivered == sent {
            return Ok(sent);
        }
        let mut reason = told
            .reason
            .lock()
            .map(|reason| reason.clone())
            .unwrap_or_default();
        if reason.is_empty()
            && let Err(error) = flushed
        {
            reason = error.to_string();
        }
        Err(TopicError::Lost {
            topic: what.topic.clone(),
            lost: sent - delivered,
            sent,
            reason,
        })
    })
    .await
}

/// Says `Continue` when the queue is full and the same record must be tried again.
fn enqueue(
    producer: &BaseProducer<Acknowledged>,
    topic: &str,
    key: &str,
    value: &[u8],
) -> Result<ControlFlow<()>, KafkaError> {
    match producer.send(BaseRecord::to(topic).key(key).payload(value)) {
        Ok(()) => Ok(ControlFlow::Break(())),
        Err((error, _)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
            Ok(ControlFlow::Continue(()))
        }
        Err((error, _)) => Err(error),
    }
}

fn wait_until(producer: &BaseProducer<Acknowledged>, when: Instant, shutdown: &CancellationToken) {
    loop {
        let left = when.saturating_duration_since(Instant::now());
        if left.is_zero() || shutdown.is_cancelled() {
            return;
        }
        producer.poll(left.min(Duration::from_millis(20)));
    }
}
