//! What the landing asks the broker beside the records themselves. Everything here blocks.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaError,
};
use tokio_util::sync::CancellationToken;

use super::stopped;
use crate::{
    Failure, KafkaSettings,
    kafka::{self, Heard, PATIENCE, Trouble},
    landing::{Bounds, Plan},
};

/// One question may take this long before it is asked again.
const QUESTION: Duration = Duration::from_secs(3);

/// What the client may read ahead, in kilobytes.
const AHEAD: &str = "queued.max.messages.kbytes";

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
    let partitions = patiently(settings, &consumer, &doing, stop, |patience| {
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
        let firsts = patiently(settings, &consumer, &doing, stop, |patience| {
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
pub(super) fn watermarks(
    settings: &KafkaSettings,
    consumer: &BaseConsumer<Heard>,
    topic: &str,
    partition: i32,
    stop: &CancellationToken,
) -> Result<(i64, i64), Failure> {
    let doing = format!("ask for the offsets of topic `{topic}`");
    patiently(settings, consumer, &doing, stop, |patience| {
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
fn consumer(settings: &KafkaSettings, topic: &str) -> Result<BaseConsumer<Heard>, Failure> {
    kafka::reader(settings, &format!("pinwheel.{topic}"))
        .create_with_context(Heard::default())
        .map_err(|error| kafka::failure(settings, "make a Kafka client", &error))
}

/// A consumer that reads at most `ahead_kb` kilobytes ahead of whoever polls it. No answer of the broker is larger either
/// (librdkafka lowers `fetch.max.bytes` to that), unless a single batch is.
pub(super) fn reader(
    settings: &KafkaSettings,
    topic: &str,
    ahead_kb: u64,
) -> Result<BaseConsumer<Heard>, Failure> {
    let mut config = kafka::reader(settings, &format!("pinwheel.{topic}"));
    if !settings.properties.contains_key(AHEAD) {
        config.set(AHEAD, ahead_kb.to_string());
    }
    config
        .create_with_context(Heard::default())
        .map_err(|error| kafka::failure(settings, "make a Kafka client", &error))
}

/// Asks again while the broker is away, for [`PATIENCE`] at most.
fn patiently<T>(
    settings: &KafkaSettings,
    consumer: &BaseConsumer<Heard>,
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
            Err(error) => {
                let failure = kafka::failure(settings, doing, &error);
                return Err(kafka::explained(consumer, failure));
            }
        }
    }
}
