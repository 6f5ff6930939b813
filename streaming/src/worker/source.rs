//! The worker's side of Kafka: one consumer with explicit offsets, polled and folded on a thread of its own.
//!
//! It never commits an offset to Kafka and never chooses one: where to read comes from Postgres. When the sink is slow
//! the thread waits with its next batch, and librdkafka stops fetching at its own bound.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use pinwheel_tasks::{KafkaSettings, kafka as client};
use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    message::Message as _,
};
use tokio::sync::mpsc;

use super::{
    fold::{Folded, Folder, Message, Position},
    plan::Plan,
};
use crate::kafka;

/// How long the thread waits for a message before it looks whether it should stop.
const IDLE_POLL: Duration = Duration::from_millis(50);
const METADATA_TIMEOUT: Duration = Duration::from_secs(4);

/// When a batch is handed to the sink.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchLimits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) time: Duration,
}

/// A partition's offsets on the broker: the first that exists, and the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) first: i64,
    pub(super) end: i64,
}

/// What the reading thread has to say.
#[derive(Debug)]
pub(super) enum Event {
    Batch(Folded),
    /// An offset to read does not exist any more, or not yet.
    OutOfRange,
    /// Reading cannot go on with this consumer.
    Failed(KafkaError),
}

/// What librdkafka reports of itself every second.
#[derive(Clone, Debug, Default)]
pub(super) struct Reported {
    /// The end of each partition, as of the last fetch.
    pub(super) ends: BTreeMap<i32, i64>,
    /// Whether a broker is connected; `None` before the first report.
    pub(super) is_connected: Option<bool>,
}

#[derive(Clone)]
pub(super) struct Context {
    topic: String,
    reported: Arc<Mutex<Reported>>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", ?level, facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }

    fn stats(&self, statistics: Statistics) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        reported.is_connected = Some(
            statistics
                .brokers
                .values()
                .any(|broker| broker.state == "UP"),
        );
        let Some(topic) = statistics.topics.get(&self.topic) else {
            return;
        };
        // The last stable offset is the end for a reader of committed records; -1001 says it is not known yet.
        let ends = topic.partitions.iter().map(|(partition, seen)| {
            (
                *partition,
                if seen.ls_offset >= 0 {
                    seen.ls_offset
                } else {
                    seen.hi_offset
                },
            )
        });
        reported
            .ends
            .extend(ends.filter(|(partition, end)| *partition >= 0 && *end >= 0));
    }
}

impl ConsumerContext for Context {}

/// A consumer that reads nothing yet.
pub(super) struct Source {
    consumer: Arc<BaseConsumer<Context>>,
    topic: String,
    reported: Arc<Mutex<Reported>>,
}

impl Source {
    pub(super) fn new(
        settings: &KafkaSettings,
        stream: &str,
        topic: &str,
    ) -> Result<Self, KafkaError> {
        let reported = Arc::default();
        let context = Context {
            topic: topic.to_owned(),
            reported: Arc::clone(&reported),
        };
        let mut config = client::reader(settings, &format!("pinwheel-stream-{stream}"));
        config
            .set("enable.partition.eof", "false")
            .set("statistics.interval.ms", "1000");
        let consumer = Arc::new(config.create_with_context(context)?);
        Ok(Self {
            consumer,
            topic: topic.to_owned(),
            reported,
        })
    }

    /// Asks for the topic's partitions and their extents; `None` when there is no such topic.
    pub(super) async fn discover(&self) -> Result<Option<BTreeMap<i32, Extent>>, KafkaError> {
        let consumer = Arc::clone(&self.consumer);
        let topic = self.topic.clone();
        kafka::blocking(move || {
            let Some(partitions) = client::partitions(&*consumer, &topic, METADATA_TIMEOUT)? else {
                return Ok(None);
            };
            let mut found = BTreeMap::new();
            for partition in partitions {
                let (first, end) =
                    consumer.fetch_watermarks(&topic, partition, METADATA_TIMEOUT)?;
                found.insert(partition, Extent { first, end });
            }
            Ok(Some(found))
        })
        .await
    }

    /// Asks for the partitions alone.
    pub(super) async fn partitions(&self) -> Result<Option<Vec<i32>>, KafkaError> {
        let consumer = Arc::clone(&self.consumer);
        let topic = self.topic.clone();
        kafka::blocking(move || client::partitions(&*consumer, &topic, METADATA_TIMEOUT)).await
    }

    pub(super) fn reported(&self) -> Reported {
        self.reported
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Starts to read at the given positions.
    pub(super) fn read(
        &self,
        plan: Arc<Plan>,
        positions: BTreeMap<i32, Position>,
        limits: BatchLimits,
    ) -> Result<Reading, KafkaError> {
        let mut assignment = TopicPartitionList::with_capacity(positions.len());
        for (partition, position) in &positions {
            assignment.add_partition_offset(
                &self.topic,
                *partition,
                Offset::Offset(position.next_offset),
            )?;
        }
        self.consumer.assign(&assignment)?;
        let (events, received) = mpsc::channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let pump = Pump {
            consumer: Arc::clone(&self.consumer),
            folder: Folder::new(plan, positions),
            limits,
            events,
            stop: Arc::clone(&stop),
        };
        let thread = thread::Builder::new()
            .name("stream reader".to_owned())
            .spawn(move || pump.run());
        let thread = thread
            .map_err(|error| KafkaError::ClientCreation(format!("no thread to read: {error}")))?;
        Ok(Reading {
            events: received,
            stop: StopOnDrop(stop),
            thread,
        })
    }

    /// Ends the consumer. Dropping it closes connections and joins threads, so it is done where blocking is allowed.
    pub(super) async fn close(self) {
        kafka::blocking(move || drop(self)).await;
    }
}

/// The reading thread, seen from outside.
pub(super) struct Reading {
    events: mpsc::Receiver<Event>,
    stop: StopOnDrop,
    thread: thread::JoinHandle<()>,
}

/// A worker whose future is dropped must not leave a thread behind that reads for nobody.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Reading {
    /// The next event; `None` when the thread has ended.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Stops the thread. What it has read and not handed over is dropped: Postgres knows where to go on.
    pub(super) async fn stop(self) {
        let Self {
            events,
            stop,
            thread,
        } = self;
        drop(stop);
        drop(events);
        kafka::blocking(move || {
            if thread.join().is_err() {
                tracing::error!("stream: the reading thread panicked");
            }
        })
        .await;
    }
}

struct Pump {
    consumer: Arc<BaseConsumer<Context>>,
    folder: Folder,
    limits: BatchLimits,
    events: mpsc::Sender<Event>,
    stop: Arc<AtomicBool>,
}

impl Pump {
    fn run(mut self) {
        let mut deadline: Option<Instant> = None;
        while !self.stop.load(Ordering::Relaxed) {
            let wait = deadline.map_or(IDLE_POLL, |deadline| {
                deadline
                    .saturating_duration_since(Instant::now())
                    .min(IDLE_POLL)
            });
            match self.consumer.poll(wait) {
                None => {}
                Some(Ok(message)) => {
                    let timestamp_ms = message.timestamp().to_millis();
                    self.folder.add(
                        Message {
                            partition: message.partition(),
                            offset: message.offset(),
                            timestamp_ms,
                            key: message.key(),
                            value: message.payload(),
                        },
                        now_ms(),
                    );
                    if deadline.is_none() && self.folder.size().0 > 0 {
                        deadline = Some(Instant::now() + self.limits.time);
                    }
                }
                Some(Err(error)) => {
                    if let Some(event) = event_of(error) {
                        self.hand_over();
                        // A receiver that is gone is about to stop this thread anyway.
                        drop(self.events.blocking_send(event));
                        return;
                    }
                }
            }
            let (messages, bytes) = self.folder.size();
            let is_due = deadline.is_some_and(|deadline| deadline <= Instant::now());
            if is_due || messages >= self.limits.messages || bytes >= self.limits.bytes {
                deadline = None;
                if !self.hand_over() {
                    return;
                }
            }
        }
    }

    fn hand_over(&mut self) -> bool {
        let folded = self.folder.take();
        folded.messages == 0 || self.events.blocking_send(Event::Batch(folded)).is_ok()
    }
}

/// What librdkafka does not heal by itself.
fn event_of(error: KafkaError) -> Option<Event> {
    if matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
    ) {
        return Some(Event::OutOfRange);
    }
    if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
        return Some(Event::Failed(error));
    }
    match client::trouble(&error) {
        client::Trouble::Away => {
            tracing::debug!(%error, "stream: {error}");
            None
        }
        client::Trouble::UnknownTopic
        | client::Trouble::Denied
        | client::Trouble::Settings
        | client::Trouble::Permanent => Some(Event::Failed(error)),
    }
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}
