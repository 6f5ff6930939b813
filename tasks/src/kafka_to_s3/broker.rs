//! What the landing asks the broker beside the records themselves. Everything here blocks.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaErrorCode,
};
use tokio_util::sync::CancellationToken;

use super::stopped;
use crate::{
    Failure, KafkaSettings,
    kafka::{self, PATIENCE, Trouble},
    landing::{Bounds, Plan},
};

/// One question may take this long before it is asked again.
const QUESTION: Duration = Duration::from_secs(3);

/// What the client may read ahead, in kilobytes.
const AHEAD: &str = "queued.max.messages.kbytes";
/// What the client takes at most, whatever the broker sends: 100 MB unless it is set.
pub(super) const LARGEST: &str = "receive.message.max.bytes";

/// The earliest offset and the last stable offset of every partition, and the first offset of each that is not before
/// `until`.
pub(super) fn bounds(
    settings: &KafkaSettings,
    topic: &str,
    until: Option<DateTime<Utc>>,
    stop: &CancellationToken,
) -> Result<Vec<Bounds>, Failure> {
    let consumer = consumer(settings, topic)?;
    let doing = format!("ask for the offsets of topic `{topic}`");
    let partitions = patiently(settings, &doing, stop, |patience| {
        kafka::partitions(&consumer, topic, patience)
    })?;
    let Some(partitions) = partitions else {
        return Err(Failure::retryable(format!("topic `{topic}` does not exist at {}", settings.brokers))
            .with_hint("check the task's `topic` and `kafka.brokers`; a topic exists once somebody has created it"));
    };
    let mut bounds = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let (low, high) = watermarks(settings, &consumer, topic, partition, stop)?;
        bounds.push(Bounds {
            partition,
            low,
            high,
            until: None,
        });
    }
    if let Some(until) = until {
        // Asked after the ends: where nothing is that late now, nothing before the end is.
        let firsts = patiently(settings, &doing, stop, |patience| {
            let mut wanted = TopicPartitionList::with_capacity(bounds.len());
            for bound in &bounds {
                let moment = Offset::Offset(until.timestamp_millis());
                wanted.add_partition_offset(topic, bound.partition, moment)?;
            }
            let found = consumer.offsets_for_times(wanted, patience)?;
            let mut firsts = BTreeMap::new();
            for partition in found.elements() {
                partition.error()?;
                if let Offset::Offset(first) = partition.offset() {
                    firsts.insert(partition.partition(), first);
                }
            }
            Ok(firsts)
        })?;
        for bound in &mut bounds {
            bound.until = firsts.get(&bound.partition).copied();
        }
    }
    Ok(bounds)
}

/// The earliest offset and the last stable offset of one partition. (The client asks with its own isolation level, so
/// "high" is not the high watermark.)
pub(super) fn watermarks<X: ConsumerContext>(
    settings: &KafkaSettings,
    consumer: &BaseConsumer<X>,
    topic: &str,
    partition: i32,
    stop: &CancellationToken,
) -> Result<(i64, i64), Failure> {
    let doing = format!("ask for the offsets of topic `{topic}`");
    patiently(settings, &doing, stop, |patience| {
        consumer.fetch_watermarks(topic, partition, patience)
    })
}

/// Commits a plan's ends for the group `pinwheel.<topic>`.
pub(super) fn commit(settings: &KafkaSettings, plan: &Plan) -> Result<(), Failure> {
    let consumer = consumer(settings, &plan.topic)?;
    let mut offsets = TopicPartitionList::with_capacity(plan.ranges.len());
    for range in &plan.ranges {
        offsets
            .add_partition_offset(&plan.topic, range.partition, Offset::Offset(range.end))
            .map_err(|error| kafka::failure(settings, "commit the group's offsets", &error))?;
    }
    consumer
        .commit(&offsets, CommitMode::Sync)
        .map_err(|error| kafka::failure(settings, "commit the group's offsets", &error))
}

/// How many offsets every partition has behind a plan's end.
pub(super) fn lag(
    settings: &KafkaSettings,
    plan: &Plan,
    stop: &CancellationToken,
) -> Result<BTreeMap<i32, i64>, Failure> {
    let consumer = consumer(settings, &plan.topic)?;
    plan.ranges
        .iter()
        .map(|range| {
            let (_, high) = watermarks(settings, &consumer, &plan.topic, range.partition, stop)?;
            Ok((range.partition, (high - range.end).max(0)))
        })
        .collect()
}

/// A consumer that reads where it is told, under the topic's group.
fn consumer(settings: &KafkaSettings, topic: &str) -> Result<BaseConsumer<Listener>, Failure> {
    kafka::reader(settings, &format!("pinwheel.{topic}"))
        .create_with_context(Listener::default())
        .map_err(|error| kafka::failure(settings, "make a Kafka client", &error))
}

/// A consumer that reads at most `ahead_kb` kilobytes ahead of whoever polls it. No answer of the broker is larger either
/// (librdkafka lowers `fetch.max.bytes` to that), unless a single batch is.
pub(super) fn reader(
    settings: &KafkaSettings,
    topic: &str,
    ahead_kb: u64,
) -> Result<BaseConsumer<Listener>, Failure> {
    let mut config = kafka::reader(settings, &format!("pinwheel.{topic}"));
    if !settings.properties.contains_key(AHEAD) {
        config.set(AHEAD, ahead_kb.to_string());
    }
    config
        .create_with_context(Listener::default())
        .map_err(|error| kafka::failure(settings, "make a Kafka client", &error))
}

/// Hears what a client says beside what it hands out.
#[derive(Debug, Default)]
pub(super) struct Listener {
    too_large: Mutex<Option<String>>,
}

impl Listener {
    /// What the client said about an answer that is larger than it takes.
    pub(super) fn too_large(&self) -> Option<String> {
        self.too_large
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ClientContext for Listener {
    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            // Whoever polls is told of it, and it is no error.
            Some(RDKafkaErrorCode::PartitionEOF) => {}
            _ if reason.contains(LARGEST) => {
                *self
                    .too_large
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
            }
            _ => tracing::warn!("Kafka client: {error}: {reason}"),
        }
    }
}

impl ConsumerContext for Listener {}

/// Asks again while the broker is away, for [`PATIENCE`] at most.
fn patiently<T>(
    settings: &KafkaSettings,
    doing: &str,
    stop: &CancellationToken,
    ask: impl Fn(Duration) -> Result<T, KafkaError>,
) -> Result<T, Failure> {
    let began = Instant::now();
    loop {
        if stop.is_cancelled() {
            return Err(stopped());
        }
        match ask(QUESTION) {
            Ok(answer) => return Ok(answer),
            Err(error) if kafka::trouble(&error) == Trouble::Away && began.elapsed() < PATIENCE => {
                // A refused connection answers at once.
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) => return Err(kafka::failure(settings, doing, &error)),
        }
    }
}
