//! What the landing asks the broker beside the records themselves. Everything here blocks.

use std::time::{Duration, Instant};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaError,
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

/// The earliest offset and the last stable offset of every partition.
pub(super) fn bounds(
    settings: &KafkaSettings,
    topic: &str,
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
    partitions
        .into_iter()
        .map(|partition| {
            let (low, high) = watermarks(settings, &consumer, topic, partition, stop)?;
            Ok(Bounds {
                partition,
                low,
                high,
            })
        })
        .collect()
}

/// The earliest offset and the last stable offset of one partition. (The client asks with its own isolation level, so
/// "high" is not the high watermark.)
pub(super) fn watermarks(
    settings: &KafkaSettings,
    consumer: &BaseConsumer,
    topic: &str,
    partition: i32,
    stop: &CancellationToken,
) -> Result<(i64, i64), Failure> {
    let doing = format!("ask for the offsets of topic `{topic}`");
    patiently(settings, &doing, stop, |patience| {
        consumer.fetch_watermarks(topic, partition, patience)
    })
}

/// Commits a plan's ends for the group `pinwheel.<topic>` and answers how many offsets came since.
pub(super) fn commit_and_lag(
    settings: &KafkaSettings,
    plan: &Plan,
    stop: &CancellationToken,
) -> Result<i64, Failure> {
    let consumer = consumer(settings, &plan.topic)?;
    let explain =
        |error: KafkaError| kafka::failure(settings, "commit the group's offsets", &error);
    let mut offsets = TopicPartitionList::with_capacity(plan.ranges.len());
    for range in &plan.ranges {
        offsets
            .add_partition_offset(&plan.topic, range.partition, Offset::Offset(range.end))
            .map_err(explain)?;
    }
    consumer
        .commit(&offsets, CommitMode::Sync)
        .map_err(explain)?;
    let mut lag = 0;
    for range in &plan.ranges {
        let (_, high) = watermarks(settings, &consumer, &plan.topic, range.partition, stop)?;
        lag += (high - range.end).max(0);
    }
    Ok(lag)
}

/// A consumer that reads where it is told, under the topic's group.
pub(super) fn consumer(settings: &KafkaSettings, topic: &str) -> Result<BaseConsumer, Failure> {
    kafka::reader(settings, &format!("pinwheel.{topic}"))
        .create()
        .map_err(|error| kafka::failure(settings, "make a Kafka client", &error))
}

/// A consumer that reads at most `ahead_kb` kilobytes ahead of whoever polls it.
pub(super) fn reader(
    settings: &KafkaSettings,
    topic: &str,
    ahead_kb: u64,
) -> Result<BaseConsumer, Failure> {
    let mut config = kafka::reader(settings, &format!("pinwheel.{topic}"));
    if !settings.properties.contains_key(AHEAD) {
        config.set(AHEAD, ahead_kb.to_string());
    }
    config
        .create()
        .map_err(|error| kafka::failure(settings, "make a Kafka client", &error))
}

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
