//! The worker's side of Kafka: one consumer with explicit offsets, polled and folded on a thread of its own.
//!
//! It never commits an offset to Kafka and never chooses one: where to read comes from Postgres. A consumer group, where the
//! stream has one, only says which partitions are ours. When the sink is slow the thread waits with its next batch, and
//! librdkafka stops fetching at its own bound.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use pinwheel_tasks::{KafkaSettings, kafka as client};
use rdkafka::{
    ClientConfig, ClientContext, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, RDKafkaErrorCode},
    message::Message as _,
    types::RDKafkaRespErr,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    definition::{BatchLimits, GroupProtocol},
    fold::{Folded, Folder, Message, Position},
    plan::Plan,
};
use crate::kafka;

/// How long the thread waits for a message before it looks whether it should stop.
const IDLE_POLL: Duration = Duration::from_millis(50);
const METADATA_TIMEOUT: Duration = Duration::from_secs(4);

/// How often the thread looks whether a partition at its end has offsets left that hold no message.
const MARKERS_LOOK: Duration = Duration::from_secs(1);

/// A partition's offsets on the broker: the first that exists, and the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) first: i64,
    pub(super) end: i64,
}

/// Where to read a partition, and an end that it had before the first fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) position: Position,
    pub(super) end: i64,
}

/// What the reading thread has to say.
#[derive(Debug)]
pub(super) enum Event {
    Batch(Folded),
    /// These partitions are ours; the thread waits to hear where to read them.
    Assigned(Vec<i32>, oneshot::Sender<BTreeMap<i32, Opened>>),
    /// These are no longer; what was read of them has been handed over before, and the thread waits until it is written.
    Revoked(Vec<i32>, oneshot::Sender<()>),
    /// An offset to read does not exist any more, or not yet.
    OutOfRange,
    /// Reading cannot go on with this consumer.
    Failed(KafkaError),
}

/// What the group says of our partitions.
#[derive(Debug)]
enum Change {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
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
    /// What the group said during a poll, for the thread that polls.
    changes: Arc<Mutex<VecDeque<Change>>>,
    /// Whether that thread is there to answer the group.
    is_read: Arc<AtomicBool>,
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

impl ConsumerContext for Context {
    /// The group waits until it is answered by an assignment, which the reading thread does after this poll. While there is no
    /// such thread the consumer closes, and whatever the group says is agreed to.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let partitions = list
            .elements()
            .iter()
            .map(rdkafka::topic_partition_list::TopicPartitionListElem::partition)
            .collect();
        let change = if what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            Change::Assigned(partitions)
        } else {
            Change::Revoked(partitions)
        };
        if self.is_read.load(Ordering::Acquire) {
            self.changes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_back(change);
        } else {
            agree(consumer, &self.topic, &change);
        }
    }
}

/// Answers the group without reading anything.
fn agree(consumer: &BaseConsumer<Context>, topic: &str, change: &Change) {
    let answered = match change {
        Change::Assigned(_) => assign(consumer, &TopicPartitionList::new()),
        Change::Revoked(partitions) => unassign(consumer, topic, partitions),
    };
    if let Err(error) = answered {
        tracing::debug!(%error, "stream: the group was not answered: {error}");
    }
}

fn assign(consumer: &BaseConsumer<Context>, list: &TopicPartitionList) -> Result<(), KafkaError> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_assign(list),
        RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.assign(list),
    }
}

fn unassign(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    partitions: &[i32],
) -> Result<(), KafkaError> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => {
            let mut list = TopicPartitionList::with_capacity(partitions.len());
            for partition in partitions {
                list.add_partition(topic, *partition);
            }
            consumer.incremental_unassign(&list)
        }
        RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.unassign(),
    }
}

/// Who the worker is to the group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'m> {
    pub(super) stream: &'m str,
    pub(super) protocol: GroupProtocol,
    /// A name that outlives the process: the next one by this name takes its place at once.
    pub(super) instance: Option<&'m str>,
    /// How often new partitions are looked for.
    pub(super) discovery: Duration,
}

/// A consumer that reads nothing yet.
pub(super) struct Source {
    consumer: Arc<BaseConsumer<Context>>,
    context: Context,
    protocol: GroupProtocol,
}

impl Source {
    pub(super) fn new(
        settings: &KafkaSettings,
        member: Member<'_>,
        topic: &str,
    ) -> Result<Self, KafkaError> {
        let context = Context {
            topic: topic.to_owned(),
            reported: Arc::default(),
            changes: Arc::default(),
            is_read: Arc::default(),
        };
        let mut config = client::reader(settings, &format!("pinwheel-stream-{}", member.stream));
        config.set("statistics.interval.ms", "1000");
        join_properties(&mut config, settings, member);
        let consumer = Arc::new(config.create_with_context(context.clone())?);
        Ok(Self {
            consumer,
            context,
            protocol: member.protocol,
        })
    }

    /// Asks for the extents of partitions.
    pub(super) async fn extents(
        &self,
        partitions: Vec<i32>,
    ) -> Result<BTreeMap<i32, Extent>, KafkaError> {
        let consumer = Arc::clone(&self.consumer);
        let topic = self.context.topic.clone();
        kafka::blocking(move || {
            let mut found = BTreeMap::new();
            for partition in partitions {
                let (first, end) =
                    consumer.fetch_watermarks(&topic, partition, METADATA_TIMEOUT)?;
                found.insert(partition, Extent { first, end });
            }
            Ok(found)
        })
        .await
    }

    /// Asks for the topic's partitions; `None` when there is no such topic.
    pub(super) async fn partitions(&self) -> Result<Option<Vec<i32>>, KafkaError> {
        let consumer = Arc::clone(&self.consumer);
        let topic = self.context.topic.clone();
        kafka::blocking(move || client::partitions(&*consumer, &topic, METADATA_TIMEOUT)).await
    }

    pub(super) fn reported(&self) -> Reported {
        self.context
            .reported
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Starts to read: what the group gives, or all of `partitions` where there is no group.
    pub(super) fn read(
        &self,
        plan: Arc<Plan>,
        partitions: Vec<i32>,
        limits: BatchLimits,
    ) -> Result<Reading, KafkaError> {
        self.context.is_read.store(true, Ordering::Release);
        match self.protocol {
            GroupProtocol::Classic | GroupProtocol::Consumer => {
                self.consumer.subscribe(&[&self.context.topic])?;
            }
            GroupProtocol::None => self
                .context
                .changes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_back(Change::Assigned(partitions)),
        }
        let (events, received) = mpsc::channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let pump = Pump {
            consumer: Arc::clone(&self.consumer),
            context: self.context.clone(),
            folder: Folder::new(plan, BTreeMap::new()),
            limits,
            deadline: None,
            events,
            stop: Arc::clone(&stop),
            ends: BTreeMap::new(),
            at_end: BTreeMap::new(),
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

    /// Asks the thread to hand over what it has read and to end; [`Reading::next`] gives it, and then `None`.
    pub(super) fn finish(&self) {
        self.stop.0.store(true, Ordering::Relaxed);
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
    context: Context,
    folder: Folder,
    limits: BatchLimits,
    /// When the batch is due that has begun.
    deadline: Option<Instant>,
    events: mpsc::Sender<Event>,
    stop: Arc<AtomicBool>,
    /// Ends that partitions had before their fetch began: once the fetch is at its end, everything before these was read.
    ends: BTreeMap<i32, i64>,
    /// Partitions whose fetch is at its end, with the end that the broker reported at the last look.
    at_end: BTreeMap<i32, Option<i64>>,
}

/// Nobody listens to the thread any more, or Kafka refuses: it ends.
struct Over;

impl Pump {
    fn run(mut self) {
        // Who stopped it knows why, and whoever still listens was told.
        drop(self.read());
        self.context.is_read.store(false, Ordering::Release);
        while let Some(change) = self.next_change() {
            agree(&self.consumer, &self.context.topic, &change);
        }
    }

    fn read(&mut self) -> Result<(), Over> {
        let mut looked = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            while let Some(change) = self.next_change() {
                let done = match &change {
                    Change::Assigned(partitions) => self.begin(partitions),
                    Change::Revoked(partitions) => self.give_up(partitions),
                };
                if done.is_err() {
                    agree(&self.consumer, &self.context.topic, &change);
                    return Err(Over);
                }
            }
            let wait = self.deadline.map_or(IDLE_POLL, |deadline| {
                deadline
                    .saturating_duration_since(Instant::now())
                    .min(IDLE_POLL)
            });
            // The message borrows the consumer, so a second owner is asked.
            let consumer = Arc::clone(&self.consumer);
            match consumer.poll(wait) {
                None => {}
                Some(Ok(message)) => {
                    self.at_end.remove(&message.partition());
                    self.folder.add(
                        Message {
                            partition: message.partition(),
                            offset: message.offset(),
                            timestamp_ms: message.timestamp().to_millis(),
                            key: message.key(),
                            value: message.payload(),
                        },
                        now_ms(),
                    );
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if let Some(end) = self.ends.remove(&partition) {
                        self.folder.reach(partition, end);
                    }
                    self.at_end.insert(partition, None);
                }
                Some(Err(error)) => {
                    if let Some(event) = event_of(error) {
                        self.hand_over()?;
                        return self.tell(event);
                    }
                }
            }
            if looked.elapsed() >= MARKERS_LOOK {
                looked = Instant::now();
                self.look_behind_markers();
            }
            if self.deadline.is_none() && !self.folder.is_empty() {
                self.deadline = Some(Instant::now() + self.limits.time);
            }
            let (messages, bytes) = self.folder.size();
            let is_due = self
                .deadline
                .is_some_and(|deadline| deadline <= Instant::now());
            if is_due || messages >= self.limits.messages || bytes >= self.limits.bytes {
                self.hand_over()?;
            }
        }
        self.hand_over()
    }

    fn next_change(&self) -> Option<Change> {
        self.context
            .changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// Reads partitions from where Postgres says.
    fn begin(&mut self, partitions: &[i32]) -> Result<(), Over> {
        self.hand_over()?;
        let (answer, opened) = oneshot::channel();
        self.tell(Event::Assigned(partitions.to_vec(), answer))?;
        let opened = opened.blocking_recv().map_err(|_| Over)?;
        let mut list = TopicPartitionList::with_capacity(opened.len());
        for (partition, opened) in &opened {
            let offset = Offset::Offset(opened.position.next_offset);
            if let Err(error) = list.add_partition_offset(&self.context.topic, *partition, offset) {
                return self.tell(Event::Failed(error)).and(Err(Over));
            }
            self.ends.insert(*partition, opened.end);
        }
        let positions = opened
            .iter()
            .map(|(partition, opened)| (*partition, opened.position));
        self.folder.add_partitions(positions.collect());
        assign(&self.consumer, &list)
            .or_else(|error| self.tell(Event::Failed(error)).and(Err(Over)))
    }

    /// Has written what was read of partitions, and then gives them to another worker.
    fn give_up(&mut self, partitions: &[i32]) -> Result<(), Over> {
        if self.consumer.assignment_lost() {
            // Another worker may have them already: what is not handed over yet would be refused.
            drop(self.folder.take());
            self.deadline = None;
        } else {
            self.hand_over()?;
        }
        let (answer, written) = oneshot::channel();
        self.tell(Event::Revoked(partitions.to_vec(), answer))?;
        written.blocking_recv().map_err(|_| Over)?;
        self.folder.remove_partitions(partitions);
        for partition in partitions {
            self.ends.remove(partition);
            self.at_end.remove(partition);
        }
        unassign(&self.consumer, &self.context.topic, partitions)
            .or_else(|error| self.tell(Event::Failed(error)).and(Err(Over)))
    }

    /// Transaction markers and aborted records are offsets without messages, so a partition may be read to its end and still
    /// seem behind. Where the end stays the same from one look to the next, the fetch is begun once more: when it comes
    /// to its end without a message, there is none before the end that was reported before.
    fn look_behind_markers(&mut self) {
        let ends = {
            let reported = self
                .context
                .reported
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            reported.ends.clone()
        };
        let mut again = Vec::new();
        for (partition, before) in &mut self.at_end {
            let end = ends.get(partition).copied();
            let Some(next) = self.folder.next_offset(*partition) else {
                continue;
            };
            if let (Some(end), true) = (end.filter(|end| *end > next), *before == end) {
                again.push((*partition, next, end));
            }
            *before = end;
        }
        for (partition, next, end) in again {
            let offset = Offset::Offset(next);
            match self
                .consumer
                .seek(&self.context.topic, partition, offset, Duration::ZERO)
            {
                Ok(()) => {
                    self.at_end.remove(&partition);
                    self.ends.insert(partition, end);
                }
                Err(error) => {
                    tracing::debug!(%error, partition, "stream: not read again: {error}");
                }
            }
        }
    }

    fn hand_over(&mut self) -> Result<(), Over> {
        self.deadline = None;
        if self.folder.is_empty() {
            return Ok(());
        }
        let folded = self.folder.take();
        self.tell(Event::Batch(folded))
    }

    fn tell(&self, event: Event) -> Result<(), Over> {
        self.events.blocking_send(event).map_err(|_| Over)
    }
}

/// What makes the consumer a member of its group. A user's own properties win.
fn join_properties(config: &mut ClientConfig, settings: &KafkaSettings, member: Member<'_>) {
    let mut set = |name: &str, value: &str| {
        if !settings.properties.contains_key(name) {
            config.set(name, value);
        }
    };
    let discovery = member.discovery.as_millis().max(1).to_string();
    match member.protocol {
        GroupProtocol::None => return,
        GroupProtocol::Classic => {
            // A worker that joins or leaves stops only the partitions that move.
            set("partition.assignment.strategy", "cooperative-sticky");
            // What a killed worker held is read by another after this time; the client's own default is 45 seconds.
            set("session.timeout.ms", "10000");
            // A member hears of a rebalance with its next heartbeat.
            set("heartbeat.interval.ms", "1000");
        }
        // The broker says how long a session and a heartbeat are.
        GroupProtocol::Consumer => set("group.protocol", "consumer"),
    }
    set("topic.metadata.refresh.interval.ms", &discovery);
    if let Some(instance) = member.instance {
        set("group.instance.id", instance);
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
