//! The streaming worker: Kafka → the dataset's cleaning → Postgres, each event exactly once.
//!
//! Postgres is the truth for offsets. A worker takes partitions by raising their generation; from then on every batch is
//! one transaction that begins by moving the offsets under the guard of generation and old offset. So a batch is written once
//! or not at all, whatever is killed when, and an earlier owner that still runs writes nothing.
//!
//! Which worker reads which partition is said by a consumer group. It is only advice: a worker that the group has forgotten and
//! that does not know it yet is fenced by Postgres, joins anew and takes what it is then given. Without a group a worker takes
//! all partitions, and one that finds its generation raised stops ([`Error::Fenced`]): it never takes partitions back, or
//! two workers would take them from each other for ever.

mod dead_topic;
mod definition;
mod error;
mod fold;
mod plan;
mod posts;
mod report;
mod rows;
mod sink;
mod source;
mod status;
mod sweep;

#[cfg(test)]
mod posts_tests;
#[cfg(test)]
mod share_tests;
#[cfg(test)]
mod sweep_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod window_tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::Utc;
use pinwheel_tasks::{FailureClass, KafkaSettings, dataset::Dataset, kafka as client};
use prometheus::Registry;
use rdkafka::error::KafkaError;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use self::{
    dead_topic::DeadTopic,
    fold::{Folded, Position},
    plan::Plan,
    sink::{Held, NotCommitted, Sink},
    source::{Event, Extent, Member, Opened, Reading, Source},
    sweep::Sweeper,
};
pub use self::{
    definition::{
        BatchLimits, DeadLetterSink, DefinitionError, EventTime, GroupProtocol, Keep, Late, OnGap,
        Span, StreamDefinition, WindowDefinition,
    },
    error::Error,
    status::{PartitionStatus, State, Status},
};
use crate::{backoff::Backoff, metrics};

pub(crate) use self::{definition::is_identifier, sink::migrate};

/// A pool for readers.
pub(crate) fn pool(database_url: &str) -> Result<sqlx::PgPool, sqlx::Error> {
    sink::pool(database_url, 4)
}

/// How a streaming worker runs.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Where Kafka is.
    pub kafka: KafkaSettings,
    /// Where Postgres is (`database.url`).
    pub database_url: String,
    /// The stream.
    pub stream: StreamDefinition,
    /// The dataset that the stream names.
    pub dataset: Arc<Dataset>,
    /// The worker's name, shown as the owner of the partitions; no two workers that live have the same.
    pub name: String,
    /// A name that the worker keeps over restarts, under which its group gives it back its partitions at once. Without one, what
    /// a killed worker held is read again once the group has given it up.
    pub instance: Option<String>,
    /// A batch ends with so many messages.
    pub batch_messages: usize,
    /// A batch ends with so many bytes.
    pub batch_bytes: usize,
    /// A batch ends so long after its first message.
    pub batch_time: Duration,
    /// How often new partitions are looked for, and whether an idle worker still owns the old ones.
    pub discovery: Duration,
    /// What is counted; all workers of a process share it.
    pub metrics: metrics::Worker,
}

impl WorkerOptions {
    /// Options with the defaults that fit most.
    pub fn new(
        kafka: KafkaSettings,
        database_url: impl Into<String>,
        stream: StreamDefinition,
        dataset: Arc<Dataset>,
    ) -> Self {
        let BatchLimits {
            messages,
            bytes,
            time,
        } = stream.batch;
        Self {
            kafka,
            database_url: database_url.into(),
            stream,
            dataset,
            name: format!("stream-{}", std::process::id()),
            instance: None,
            batch_messages: messages,
            batch_bytes: bytes,
            batch_time: time,
            discovery: Duration::from_secs(10),
            metrics: metrics::Worker::register(&Registry::new()),
        }
    }
}

/// How long a worker that is asked to stop may write what it has read.
const FINISH: Duration = Duration::from_secs(10);

/// A streaming worker.
pub struct Worker {
    options: WorkerOptions,
    plan: Arc<Plan>,
    sink: Sink,
    metrics: metrics::Worker,
    status: watch::Sender<Status>,
    /// The partitions that are ours. Without a group never taken twice, for as long as the process lives.
    held: BTreeMap<i32, Held>,
    /// When each of them last brought something; those that are known to be idle have no entry.
    lively: BTreeMap<i32, Instant>,
    dead_topic: Option<DeadTopic>,
    sweeper: Sweeper,
    /// What this worker has added to the gauges that it shares with others of its process.
    gauged: Gauged,
    backoff: Backoff,
}

/// What a worker has added to shared gauges.
#[derive(Default)]
struct Gauged {
    up: i64,
    partitions: i64,
}

/// Runs a stream until `shutdown`.
///
/// # Errors
///
/// See [`Error`]. Postgres or Kafka being away is no error: it waits.
pub async fn run(options: WorkerOptions, shutdown: CancellationToken) -> Result<(), Error> {
    Worker::new(options)?.run(shutdown).await
}

/// How a session with Kafka and Postgres ended.
enum End {
    /// Asked to stop.
    Shutdown,
    /// The topic has partitions that were not there before, or an uncertain commit must be read again.
    Again,
}

/// Why a session ended otherwise.
enum Broken {
    /// Postgres is away; it is waited for.
    PostgresAway(String),
    /// Kafka is away, or not as it should be; it is waited for.
    Away(String),
    /// Another worker has our partitions. A group will say who reads them; without one, the other does.
    Taken(Error),
    /// Somebody must decide.
    Fatal(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl Worker {
    /// Binds the stream to its dataset. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// When the two do not fit, or the database's address is not valid.
    pub fn new(options: WorkerOptions) -> Result<Self, Error> {
        let stream = options.stream.id.clone();
        if options.stream.dataset != options.dataset.id() {
            let problem = format!(
                "it names the dataset `{}` and was given `{}`",
                options.stream.dataset,
                options.dataset.id()
            );
            return Err(Error::Plan { stream, problem });
        }
        let plan =
            Plan::new(options.stream.clone(), Arc::clone(&options.dataset)).map_err(|problem| {
                Error::Plan {
                    stream: stream.clone(),
                    problem,
                }
            })?;
        let pool = sink::worker_pool(&options.database_url, 3)
            .map_err(|source| Error::Database { stream, source })?;
        let metrics = options.metrics.clone();
        Ok(Self {
            plan: Arc::new(plan),
            sink: Sink::new(pool),
            metrics,
            status: watch::Sender::new(Status::default()),
            held: BTreeMap::new(),
            lively: BTreeMap::new(),
            dead_topic: None,
            sweeper: Sweeper::default(),
            gauged: Gauged::default(),
            backoff: Backoff::new(),
            options,
        })
    }

    /// What the worker says of itself, from now on.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Runs until `shutdown`.
    ///
    /// # Errors
    ///
    /// See [`Error`]. Postgres or Kafka being away is no error: it waits.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let result = self.sessions(&shutdown).await;
        self.mark_down();
        match &result {
            Ok(()) => self.say(State::Stopped, None),
            Err(error) => self.say(State::Failed, Some(error.to_string())),
        }
        self.write_status().await;
        if let Some(topic) = self.dead_topic.take() {
            topic.close().await;
        }
        self.held.clear();
        self.gauge_partitions();
        // A sweep under way would keep its connection.
        self.sweeper = Sweeper::default();
        self.sink.close().await;
        result
    }

    async fn sessions(&mut self, shutdown: &CancellationToken) -> Result<(), Error> {
        let mut said: Option<String> = None;
        loop {
            let (reason, can_write) = match self.session(shutdown).await {
                Ok(End::Shutdown) => return Ok(()),
                Ok(End::Again) => continue,
                Err(Broken::Fatal(error)) => return Err(error),
                Err(Broken::Taken(error)) if self.is_alone() => return Err(error),
                Err(Broken::Taken(error)) => (error.to_string(), true),
                Err(Broken::Away(reason)) => (reason, true),
                Err(Broken::PostgresAway(reason)) => (reason, false),
            };
            self.mark_down();
            let stream = &self.plan.definition.id;
            let is_new =
                said.as_ref() != Some(&reason) || self.status.borrow().state == State::Running;
            if is_new {
                tracing::warn!(stream, reason, "stream `{stream}` waits: {reason}");
            }
            self.say(State::Waiting, Some(reason.clone()));
            said = Some(reason);
            if is_new && can_write {
                self.write_status().await;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(self.backoff.next()) => {}
            }
        }
    }

    /// Connects, takes what is new, reads and commits, until something ends it.
    async fn session(&mut self, shutdown: &CancellationToken) -> Result<End, Broken> {
        let member = Member {
            stream: &self.plan.definition.id,
            protocol: self.plan.definition.group_protocol,
            instance: self.options.instance.as_deref(),
            discovery: self.options.discovery,
        };
        let source = Source::new(&self.options.kafka, member, &self.plan.definition.topic)
            .map_err(|error| self.kafka(error))?;
        let ended = self.session_with(&source, shutdown).await;
        source.close().await;
        ended
    }

    async fn session_with(
        &mut self,
        source: &Source,
        shutdown: &CancellationToken,
    ) -> Result<End, Broken> {
        let partitions = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(End::Shutdown),
            reached = self.reach(source) => reached?,
        };
        if !self.is_alone() {
            // What a group gave belonged to the membership that has ended.
            self.give_up_all();
        }
        let limits = BatchLimits {
            messages: self.options.batch_messages,
            bytes: self.options.batch_bytes,
            time: self.options.batch_time,
        };
        let mut reading = source
            .read(Arc::clone(&self.plan), partitions, limits)
            .map_err(|error| self.kafka(error))?;
        let ended = self.consume(source, &mut reading, shutdown).await;
        let ended = match ended {
            Ok(End::Shutdown) => self.finish(&mut reading).await,
            other => other,
        };
        reading.stop().await;
        ended
    }

    /// Whether the stream has no group, and this worker all of its partitions.
    fn is_alone(&self) -> bool {
        match self.plan.definition.group_protocol {
            GroupProtocol::None => true,
            GroupProtocol::Classic | GroupProtocol::Consumer => false,
        }
    }

    /// Reaches both ends, and answers with the partitions of the topic.
    async fn reach(&mut self, source: &Source) -> Result<Vec<i32>, Broken> {
        let misfit = self
            .sink
            .prepare(&self.plan)
            .await
            .map_err(|error| self.database(error))?;
        let stream = &self.plan.definition.id;
        if let Some(window) = misfit {
            let stream = stream.clone();
            return Err(Error::Window { stream, window }.into());
        }
        self.sink
            .forget_workers(&self.plan, &self.options.name)
            .await
            .map_err(|error| self.database(error))?;
        let topic = &self.plan.definition.topic;
        let partitions = source
            .partitions()
            .await
            .map_err(|error| self.kafka(error))?
            .ok_or_else(|| Broken::Away(format!("topic `{topic}` does not exist yet")))?;
        if let (DeadLetterSink::Topic(topic), None) =
            (&self.plan.definition.dead_letters, &self.dead_topic)
        {
            let opened = DeadTopic::open(&self.options.kafka, topic).await;
            self.dead_topic = Some(opened.map_err(|failure| match failure.class {
                FailureClass::Retryable
                | FailureClass::Timeout
                | FailureClass::Panic
                | FailureClass::Killed
                | FailureClass::Lost
                | FailureClass::Cancelled => Broken::Away(failure.message),
                FailureClass::Permanent => Broken::Fatal(Error::DeadLetters {
                    stream: stream.clone(),
                    problem: failure.message,
                }),
            })?);
        }
        Ok(partitions)
    }

    /// Takes partitions and says where to read each. Without a group, what was taken before is only read again.
    async fn take(
        &mut self,
        source: &Source,
        partitions: Vec<i32>,
    ) -> Result<BTreeMap<i32, Opened>, Broken> {
        let found = source
            .extents(partitions)
            .await
            .map_err(|error| self.kafka(error))?;
        if self.is_alone() {
            self.reread().await?;
        }
        let new: BTreeMap<i32, i64> = found
            .iter()
            .filter(|(partition, _)| !self.held.contains_key(partition))
            .map(|(partition, extent)| (*partition, extent.first))
            .collect();
        let stream = self.plan.definition.id.clone();
        if !new.is_empty() {
            let taken = self
                .sink
                .take(&self.plan, &self.options.name, &new)
                .await
                .map_err(|error| self.database(error))?;
            tracing::info!(stream, partitions = ?taken.keys().collect::<Vec<_>>(), "stream: took partitions");
            self.held.extend(taken);
        }
        self.check_extents(&found).await?;
        self.see_ends(
            found
                .iter()
                .map(|(partition, extent)| (*partition, extent.end)),
        );
        let now = Instant::now();
        let opened = found
            .iter()
            .filter_map(|(partition, extent)| {
                let held = self.held.get(partition)?;
                self.lively.insert(*partition, now);
                let position = Position {
                    next_offset: held.next_offset,
                    watermark_ms: held.watermark_ms,
                };
                let end = extent.end;
                Some((*partition, Opened { position, end }))
            })
            .collect();
        self.metrics.rebalances.with_label_values(&[&stream]).inc();
        Ok(opened)
    }

    /// Gives partitions to whoever takes them next. Everything that was read of them is written.
    fn give_up(&mut self, partitions: &[i32]) {
        let stream = self.plan.definition.id.clone();
        for partition in partitions {
            self.held.remove(partition);
            self.lively.remove(partition);
            self.metrics.forget_partition(&stream, *partition);
        }
        self.gauge_partitions();
        tracing::info!(stream, ?partitions, "stream: gave up partitions");
    }

    fn give_up_all(&mut self) {
        if !self.held.is_empty() {
            let all: Vec<i32> = self.held.keys().copied().collect();
            self.give_up(&all);
        }
    }

    /// Answers the reading thread about partitions that the group gives or takes.
    async fn assigned(
        &mut self,
        source: &Source,
        partitions: Vec<i32>,
        answer: oneshot::Sender<BTreeMap<i32, Opened>>,
    ) -> Result<(), Broken> {
        let opened = self.take(source, partitions).await?;
        let stream = self.plan.definition.id.clone();
        if self.status.borrow().state != State::Running {
            tracing::info!(
                stream,
                topic = self.plan.definition.topic,
                partitions = self.held.len(),
                "stream `{stream}` reads"
            );
        }
        self.mark_up();
        self.gauge_partitions();
        self.backoff.reset();
        self.say(State::Running, None);
        self.write_status().await;
        // A thread that has ended meanwhile has told why.
        drop(answer.send(opened));
        Ok(())
    }

    /// After a request to stop: what was read is written, and nothing more is read.
    async fn finish(&mut self, reading: &mut Reading) -> Result<End, Broken> {
        reading.finish();
        let write_the_rest = async {
            while let Some(event) = reading.next().await {
                match event {
                    Event::Batch(folded) => {
                        if self.commit(folded).await?.is_some() {
                            break;
                        }
                    }
                    // Refused by not answering; the consumer leaves its group anyway.
                    Event::Assigned(..) | Event::Revoked(..) => {}
                    Event::OutOfRange | Event::Failed(_) => break,
                }
            }
            Ok(End::Shutdown)
        };
        match tokio::time::timeout(FINISH, write_the_rest).await {
            Ok(Ok(end)) => Ok(end),
            // What is not written is read again by the next worker.
            Ok(Err(Broken::Away(_) | Broken::PostgresAway(_))) | Err(_) => Ok(End::Shutdown),
            Ok(Err(Broken::Fatal(error) | Broken::Taken(error))) => {
                tracing::debug!(%error, "stream: not everything was written: {error}");
                Ok(End::Shutdown)
            }
        }
    }

    /// Reads the offsets of what is held again: after an uncertain commit they may have moved. Somebody else's generation
    /// means that this worker is out.
    async fn reread(&mut self) -> Result<(), Broken> {
        if self.held.is_empty() {
            return Ok(());
        }
        let now = self
            .sink
            .offsets(&self.plan)
            .await
            .map_err(|error| self.database(error))?;
        for (partition, held) in &mut self.held {
            match now.get(partition).copied() {
                Some(stands) if stands.generation == held.generation => *held = stands,
                other => {
                    let fenced = Error::Fenced {
                        stream: self.plan.definition.id.clone(),
                        partition: *partition,
                        generation: other.map_or(0, |other| other.generation),
                    };
                    return Err(Broken::Taken(fenced));
                }
            }
        }
        Ok(())
    }

    /// Compares where to read with what the broker has.
    async fn check_extents(&mut self, found: &BTreeMap<i32, Extent>) -> Result<(), Broken> {
        for (&partition, &extent) in found {
            let Some(&held) = self.held.get(&partition) else {
                continue;
            };
            let definition = &self.plan.definition;
            let (stream, topic) = (definition.id.clone(), definition.topic.clone());
            if held.next_offset > extent.end {
                return Err(Error::Truncated {
                    stream,
                    topic,
                    partition,
                    end: extent.end,
                    next: held.next_offset,
                }
                .into());
            }
            if held.next_offset >= extent.first {
                continue;
            }
            match definition.on_gap {
                OnGap::Fail => {
                    return Err(Error::Gap {
                        stream,
                        topic,
                        partition,
                        from: held.next_offset,
                        to: extent.first - 1,
                    }
                    .into());
                }
                OnGap::Skip => {
                    let moved = self
                        .sink
                        .skip_gap(&self.plan, partition, held, extent.first)
                        .await
                        .map_err(|error| self.database(error))?;
                    if !moved {
                        return Err(Broken::Away(
                            "the offsets moved while a gap was skipped".to_owned(),
                        ));
                    }
                    tracing::warn!(
                        stream,
                        topic,
                        partition,
                        from = held.next_offset,
                        to = extent.first - 1,
                        "stream: skipped offsets that are gone"
                    );
                    self.held.insert(
                        partition,
                        Held {
                            next_offset: extent.first,
                            ..held
                        },
                    );
                }
            }
        }
        Ok(())
    }

    async fn consume(
        &mut self,
        source: &Source,
        reading: &mut Reading,
        shutdown: &CancellationToken,
    ) -> Result<End, Broken> {
        let mut every_second = tokio::time::interval(Duration::from_secs(1));
        every_second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        every_second.tick().await;
        let mut last = (Instant::now(), self.status.borrow().events);
        let mut looked = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(End::Shutdown),
                _ = every_second.tick() => {
                    let now = Instant::now();
                    let events = self.status.borrow().events;
                    self.tick(source, (events - last.1) as f64 / (now - last.0).as_secs_f64()).await;
                    last = (now, events);
                    self.sweeper.sweep_when_due(&self.sink.pool, &self.plan);
                    if looked.elapsed() >= self.options.discovery {
                        looked = now;
                        self.reread_quietly().await?;
                        self.mark_idle().await;
                        if self.is_alone() && self.has_new_partitions(source).await {
                            return Ok(End::Again);
                        }
                        // A worker that says nothing for long is taken for lost.
                        self.write_status().await;
                    }
                }
                event = reading.next() => match event {
                    Some(Event::Batch(folded)) => {
                        if let Some(end) = self.commit(folded).await? {
                            return Ok(end);
                        }
                    }
                    Some(Event::Assigned(partitions, answer)) => {
                        self.assigned(source, partitions, answer).await?;
                    }
                    Some(Event::Revoked(partitions, answer)) => {
                        self.give_up(&partitions);
                        let partitions = self.partition_status();
                        self.status.send_modify(|status| status.partitions = partitions);
                        self.write_status().await;
                        if answer.send(()).is_err() {
                            tracing::debug!("stream: the reading thread has ended meanwhile");
                        }
                    }
                    // The next session compares offsets with the broker and says what is gone.
                    Some(Event::OutOfRange) => return Err(Broken::Away(format!("an offset of `{}` does not exist", self.plan.definition.topic))),
                    Some(Event::Failed(error)) => return Err(self.kafka(error)),
                    None => return Err(Broken::Away("the reading thread has ended".to_owned())),
                },
            }
        }
    }

    /// Commits one batch. `Some` asks for a new session.
    async fn commit(&mut self, folded: Folded) -> Result<Option<End>, Broken> {
        let started = Instant::now();
        let advances = folded.advances.clone();
        let mut dead: BTreeMap<&'static str, u64> = BTreeMap::new();
        for letter in &folded.dead {
            *dead.entry(letter.stage).or_default() += 1;
        }
        let folded = self.send_dead_letters(folded).await?;
        match self.sink.commit(&self.plan, &self.held, folded).await {
            Ok(()) => {}
            Err(NotCommitted::Guarded) => {
                // Either somebody took the partitions, and the next look says so, or an earlier commit arrived after all.
                self.reread().await?;
                return Ok(Some(End::Again));
            }
            Err(NotCommitted::Database(error)) => return Err(self.database(error)),
        }
        let stream = self.plan.definition.id.clone();
        self.metrics.batches.with_label_values(&[&stream]).inc();
        self.metrics
            .commit
            .with_label_values(&[&stream])
            .observe(started.elapsed().as_secs_f64());
        self.metrics
            .last_commit
            .with_label_values(&[&stream])
            .set(Utc::now().timestamp_millis() as f64 / 1000.0);
        for (stage, count) in &dead {
            self.metrics
                .dead
                .with_label_values(&[stream.as_str(), stage])
                .inc_by(*count);
        }
        let (mut events, mut late, mut dropped, mut rejected) = (0, 0, 0, 0);
        let now = Instant::now();
        for (partition, advance) in advances {
            events += advance.events.unsigned_abs();
            late += advance.late.unsigned_abs();
            dropped += advance.dropped.unsigned_abs();
            rejected += advance.dead.unsigned_abs();
            if advance.events > 0 {
                self.lively.insert(partition, now);
            }
            if let Some(watermark) = advance.watermark_ms {
                self.metrics
                    .watermark_of(&stream, partition)
                    .set(watermark as f64 / 1000.0);
            }
            if let Some(held) = self.held.get_mut(&partition) {
                held.next_offset = advance.next_offset;
                held.watermark_ms = advance.watermark_ms;
            }
        }
        self.metrics.events_of(&stream).inc_by(events);
        self.metrics.late.with_label_values(&[&stream]).inc_by(late);
        self.metrics
            .dropped
            .with_label_values(&[&stream])
            .inc_by(dropped);
        let partitions = self.partition_status();
        self.status.send_modify(|status| {
            status.events += events;
            status.late += late;
            status.dropped += dropped;
            status.dead_letters += rejected;
            status.last_commit = Some(Utc::now());
            status.partitions = partitions;
        });
        Ok(None)
    }

    /// Puts a batch's dead letters on their topic, where the stream has one, before the batch is written: a crash in
    /// between repeats them there, and never loses one.
    async fn send_dead_letters(&self, mut folded: Folded) -> Result<Folded, Broken> {
        if let Some(topic) = &self.dead_topic {
            let letters = std::mem::take(&mut folded.dead);
            topic
                .send(&self.plan.definition, letters)
                .await
                .map_err(|error| self.kafka(error))?;
        }
        Ok(folded)
    }

    /// Remembers which partitions have long had nothing to read, so that they hold no watermark back. Best effort: it is tried
    /// again with the next look.
    async fn mark_idle(&mut self) {
        let ends: BTreeSet<i32> = self
            .status
            .borrow()
            .partitions
            .iter()
            .filter(|partition| partition.lag == Some(0))
            .map(|partition| partition.partition)
            .collect();
        let idle: BTreeMap<i32, Held> = self
            .lively
            .iter()
            .filter(|(partition, since)| {
                ends.contains(partition) && since.elapsed() >= self.plan.definition.idle
            })
            .filter_map(|(partition, _)| Some((*partition, *self.held.get(partition)?)))
            .collect();
        if idle.is_empty() {
            return;
        }
        match self.sink.mark_idle(&self.plan, &idle).await {
            Ok(()) => self
                .lively
                .retain(|partition, _| !idle.contains_key(partition)),
            Err(error) => tracing::debug!(%error, "stream: idle partitions not marked: {error}"),
        }
    }

    /// An idle worker commits nothing and would not notice that it was fenced.
    async fn reread_quietly(&mut self) -> Result<(), Broken> {
        let before = self.held.clone();
        match self.reread().await {
            Ok(()) => {
                // Batches under way count from the offsets that this worker knows.
                self.held = before;
                Ok(())
            }
            Err(broken @ (Broken::Fatal(_) | Broken::Taken(_))) => Err(broken),
            Err(Broken::Away(_) | Broken::PostgresAway(_)) => Ok(()),
        }
    }

    async fn has_new_partitions(&self, source: &Source) -> bool {
        match source.partitions().await {
            Ok(Some(partitions)) => partitions
                .iter()
                .any(|partition| !self.held.contains_key(partition)),
            Ok(None) | Err(_) => false,
        }
    }

    fn database(&self, error: sqlx::Error) -> Broken {
        if sink::is_passing(&error) {
            return Broken::PostgresAway(format!(
                "cannot reach Postgres at `database.url`: {error}"
            ));
        }
        Broken::Fatal(Error::Database {
            stream: self.plan.definition.id.clone(),
            source: error,
        })
    }

    fn kafka(&self, error: KafkaError) -> Broken {
        match client::trouble(&error) {
            client::Trouble::Away => Broken::Away(self.kafka_away()),
            client::Trouble::UnknownTopic => Broken::Away(format!(
                "topic `{}` does not exist yet",
                self.plan.definition.topic
            )),
            client::Trouble::Denied | client::Trouble::Settings | client::Trouble::Permanent => {
                Broken::Fatal(Error::Kafka {
                    stream: self.plan.definition.id.clone(),
                    source: error,
                })
            }
        }
    }

    fn kafka_away(&self) -> String {
        format!(
            "cannot reach Kafka at `{}`, the setting `kafka.brokers`",
            self.options.kafka.brokers
        )
    }
}
