//! Reads one planned range and cuts it into encoded objects. Everything here blocks, on a thread of its own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::{Either, select};
use polars::prelude::PolarsError;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers},
    types::RDKafkaErrorCode,
};
use tokio::{runtime::Handle, sync::mpsc::Sender};
use tokio_util::sync::CancellationToken;

use super::{
    Observer, Step, broker,
    memory::{Held, Memory},
    progress::Progress,
    stopped,
};
use crate::{
    Failure, KafkaSettings,
    kafka::{self, Heard, PATIENCE, Trouble},
    landing::{
        ChunkLimits, Chunker, Cut, PlanError, PlannedRange, Tail, WhenDeleted, columns::Record,
        encoder::Encoder,
    },
    s3,
};

/// How soon a cancel is noticed while nothing comes.
const POLL: Duration = Duration::from_millis(100);

/// Records that are counted at once.
const REPORTED_AT_ONCE: u64 = 512;

/// A client that was interrupted and hears nothing for so long afterwards is told anew where to read. It does not always
/// go on by itself after a broker was killed.
const RECOVERY: Duration = Duration::from_secs(2);

/// So many times a client that hears nothing is told anew where to read, after [`PATIENCE`] and then each time after twice
/// as long: the broker may be reading through a long stretch of aborted records.
const MOST_SILENCES: u32 = 4;

/// One object, ready to be written.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) first_offset: i64,
    pub(super) last_offset: i64,
    pub(super) records: u64,
    pub(super) body: Bytes,
    /// The checksum of the body.
    pub(super) sha256: String,
    /// The last record.
    pub(super) tail: Tail,
    /// The share of the landing's memory that this chunk takes until its object is written.
    pub(super) _memory: Held,
}

/// Reads one range of a plan.
pub(super) struct Reader {
    pub(super) kafka: KafkaSettings,
    pub(super) topic: String,
    pub(super) range: PlannedRange,
    pub(super) limits: ChunkLimits,
    pub(super) when_deleted: WhenDeleted,
    /// The record that was landed last, if any was.
    pub(super) tail: Option<Tail>,
    /// Shared by all readers.
    pub(super) memory: Arc<Memory>,
    pub(super) runtime: Handle,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) stop: CancellationToken,
    /// Told by all readers of a landing.
    pub(super) progress: Arc<Progress>,
}

/// A chunk that is being filled.
struct Open {
    object: Encoder,
    memory: Held,
}

/// Where a reader stands.
struct Reading {
    next: i64,
    /// The record before `start` that is to be seen first and must be the one that was landed.
    expected: Option<Tail>,
    chunker: Chunker,
    open: Option<Open>,
    /// Records that are not yet counted.
    unreported: u64,
}

/// What the client has to say.
enum Event {
    Record(i64),
    /// Retention deleted what is next; this is the earliest offset that is left, and the task says to go on.
    Deleted(i64),
    /// A record before the range, or one that an earlier assignment had under way.
    Earlier,
    /// The log ends here for now.
    End,
    /// The connection to the broker was lost.
    Away,
    Silence,
}

impl Reader {
    /// Sends every chunk of the range. Answers the offset at which it began: the planned one, or a later one where
    /// retention deleted records and the task says to go on.
    pub(super) fn read(&self, chunks: &Sender<Chunk>) -> Result<i64, Failure> {
        let consumer = broker::reader(&self.kafka, &self.topic, self.memory.ahead_kb)?;
        let (low, _) = self.bounds(&consumer)?;
        let start = self.start(low)?;
        let expected = self
            .tail
            .clone()
            .filter(|tail| (low..start).contains(&tail.offset));
        let mut reading = Reading {
            next: start,
            chunker: Chunker::new(self.limits),
            open: None,
            expected,
            unreported: 0,
        };
        let mut silent_since = None;
        let mut silences = 0;
        let mut interrupted = false;
        let mut end_confirmed = false;
        let from = reading.expected.as_ref().map_or(start, |tail| tail.offset);
        self.assign(&consumer, from)?;
        while reading.next < self.range.end {
            if reading.unreported >= REPORTED_AT_ONCE {
                self.report(&mut reading)?;
            }
            let event = self.poll(&consumer, &mut reading, chunks)?;
            if !matches!(event, Event::Silence | Event::Away) {
                silent_since = None;
            }
            match event {
                Event::Record(offset) => {
                    reading.next = offset + 1;
                    end_confirmed = false;
                    silences = 0;
                    interrupted = false;
                }
                Event::Earlier => {}
                Event::Deleted(low) => {
                    reading.next = low.min(self.range.end);
                    self.assign(&consumer, reading.next)?;
                }
                // Only records move `next`, and a range may end in what is no record: markers and aborted records.
                // What the leader now calls stable reaches the planned end, so a second end, seen by a fetch that
                // began after that, means that nothing is left.
                Event::End if end_confirmed => break,
                Event::End => {
                    self.confirm_end(&consumer)?;
                    self.assign(&consumer, reading.next)?;
                    end_confirmed = true;
                }
                Event::Away => interrupted = true,
                Event::Silence => {
                    self.report(&mut reading)?;
                    let patience = if interrupted {
                        RECOVERY
                    } else {
                        PATIENCE * 2_u32.pow(silences)
                    };
                    if silent_since.get_or_insert_with(Instant::now).elapsed() > patience {
                        if silences == MOST_SILENCES {
                            let doing = format!("read topic `{}`", self.topic);
                            let failure = kafka::away(&self.kafka, &doing);
                            return Err(kafka::explained(&consumer, failure));
                        }
                        // The broker answers and sends nothing: the client may have lost its place.
                        self.bounds(&consumer)?;
                        self.assign(&consumer, reading.next)?;
                        silences += u32::from(!interrupted);
                        interrupted = false;
                        silent_since = None;
                    }
                }
            }
        }
        if let Some(open) = reading.open {
            self.close(open, chunks)?;
        }
        Ok(start)
    }

    /// Waits for the next event; takes the record if it is one of ours, and closes the chunk if it is full.
    fn poll(
        &self,
        consumer: &BaseConsumer<Heard>,
        reading: &mut Reading,
        chunks: &Sender<Chunk>,
    ) -> Result<Event, Failure> {
        match consumer.poll(POLL) {
            None => Ok(Event::Silence),
            Some(Ok(message)) if message.offset() < reading.next => {
                self.compare(&message, reading)?;
                Ok(Event::Earlier)
            }
            Some(Ok(message)) => {
                // Compaction removed the record that was to be seen first, or it is the one before.
                reading.expected = None;
                let offset = message.offset();
                if offset < self.range.end {
                    let record = record(&message);
                    let open = match &mut reading.open {
                        Some(open) => open,
                        none => none.insert(self.open()?),
                    };
                    open.object.push(&record).map_err(not_written)?;
                    reading.unreported += 1;
                    if reading.chunker.take(record.payload_bytes()) == Cut::Close
                        && let Some(open) = reading.open.take()
                    {
                        self.close(open, chunks)?;
                    }
                }
                Ok(Event::Record(offset))
            }
            Some(Err(KafkaError::PartitionEOF(_))) => Ok(Event::End),
            Some(Err(error))
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) =>
            {
                // Either retention overtook us or the log was cut: the bounds say which.
                self.confirm_end(consumer)?;
                let (low, _) = self.bounds(consumer)?;
                match self.when_deleted {
                    // What was read before is kept.
                    WhenDeleted::Continue if low > reading.next => Ok(Event::Deleted(low)),
                    WhenDeleted::Continue | WhenDeleted::Fail => {
                        Err(self.deleted(reading.next, low))
                    }
                }
            }
            Some(Err(_)) if let Some(said) = consumer.context().too_large() => {
                Err(self.too_large(reading.next, &said))
            }
            // The client reconnects by itself.
            Some(Err(error)) if kafka::trouble(&error) == Trouble::Away => Ok(Event::Away),
            Some(Err(error)) => Err(kafka::failure(
                &self.kafka,
                &format!("read topic `{}`", self.topic),
                &error,
            )),
        }
    }

    /// Counts what was read, and looks whether the try goes on. Not for every record: all readers share both.
    fn report(&self, reading: &mut Reading) -> Result<(), Failure> {
        self.progress
            .read(self.range.partition, reading.unreported, reading.next);
        reading.unreported = 0;
        if self.stop.is_cancelled() {
            Err(stopped())
        } else {
            Ok(())
        }
    }

    /// Looks whether a record before the range is the one that was landed last. (Others come from an earlier assignment.)
    fn compare(&self, message: &BorrowedMessage<'_>, reading: &mut Reading) -> Result<(), Failure> {
        let Some(expected) = &reading.expected else {
            return Ok(());
        };
        if message.offset() != expected.offset {
            return Ok(());
        }
        if record(message).fingerprint() == expected.sha256 {
            reading.expected = None;
            return Ok(());
        }
        let error = PlanError::Replaced {
            topic: self.topic.clone(),
            partition: self.range.partition,
            offset: expected.offset,
        };
        Err(Failure::permanent(error.to_string()).with_hint(error.hint()))
    }

    /// Begins a chunk as soon as there is memory for one more.
    fn open(&self) -> Result<Open, Failure> {
        let room = std::pin::pin!(self.memory.room());
        let stopped_waiting = std::pin::pin!(self.stop.cancelled());
        let memory = match self.runtime.block_on(select(room, stopped_waiting)) {
            Either::Left((Some(memory), _)) => memory,
            Either::Left((None, _)) | Either::Right(_) => return Err(stopped()),
        };
        self.runtime
            .block_on(self.observer.reached(Step::ChunkBegun))?;
        Ok(Open {
            object: Encoder::new().map_err(not_written)?,
            memory,
        })
    }

    fn close(&self, mut open: Open, chunks: &Sender<Chunk>) -> Result<(), Failure> {
        let Some(object) = open.object.finish().map_err(not_written)? else {
            return Ok(());
        };
        open.memory.shrink_to(object.body.len());
        let chunk = Chunk {
            first_offset: object.first_offset,
            last_offset: object.last.offset,
            records: object.records,
            sha256: s3::sha256(&object.body),
            body: Bytes::from(object.body),
            tail: Tail {
                partition: self.range.partition,
                offset: object.last.offset,
                sha256: object.last.fingerprint,
            },
            _memory: open.memory,
        };
        // Nobody receives any more once the try has ended.
        chunks.blocking_send(chunk).map_err(|_| stopped())
    }

    /// Where to begin: retention may have been faster than the plan.
    fn start(&self, low: i64) -> Result<i64, Failure> {
        let start = self.range.start;
        match self.when_deleted {
            _ if low <= start => Ok(start),
            WhenDeleted::Continue => Ok(low.min(self.range.end)),
            WhenDeleted::Fail => Err(self.deleted(start, low)),
        }
    }

    /// Checks that the log still reaches the planned end.
    fn confirm_end(&self, consumer: &BaseConsumer<Heard>) -> Result<(), Failure> {
        let (_, high) = self.bounds(consumer)?;
        if high >= self.range.end {
            return Ok(());
        }
        // A new leader may lag behind for a moment, so this is not final.
        Err(Failure::retryable(format!(
            "partition {} of topic `{}` ends at offset {high}, before the planned end {}",
            self.range.partition, self.topic, self.range.end
        ))
        .with_hint("if the topic was deleted and created again, land it under another `prefix`"))
    }

    fn bounds(&self, consumer: &BaseConsumer<Heard>) -> Result<(i64, i64), Failure> {
        broker::watermarks(
            &self.kafka,
            consumer,
            &self.topic,
            self.range.partition,
            &self.stop,
        )
    }

    fn deleted(&self, from: i64, low: i64) -> Failure {
        let gap = (self.range.partition, from, low.min(self.range.end));
        let error = PlanError::Deleted {
            topic: self.topic.clone(),
            deleted: vec![gap],
        };
        Failure::permanent(error.to_string()).with_hint(error.hint())
    }

    fn too_large(&self, offset: i64, said: &str) -> Failure {
        Failure::permanent(format!(
            "the record at offset {offset} of partition {} of topic `{}`, or the batch that it came in, is larger than the \
             Kafka client takes: {said}",
            self.range.partition, self.topic
        ))
        .with_hint(
            "set a larger `receive.message.max.bytes` in `kafka.properties`; the worker needs about six times the record's size \
             in memory",
        )
    }

    fn assign(&self, consumer: &BaseConsumer<Heard>, next: i64) -> Result<(), Failure> {
        let mut position = TopicPartitionList::with_capacity(1);
        position
            .add_partition_offset(&self.topic, self.range.partition, Offset::Offset(next))
            .and_then(|()| consumer.assign(&position))
            .map_err(|error| {
                kafka::failure(&self.kafka, &format!("read topic `{}`", self.topic), &error)
            })
    }
}

fn not_written(error: PolarsError) -> Failure {
    Failure::permanent(format!("records cannot be written as Parquet: {error}"))
}

fn record<'a>(message: &'a BorrowedMessage<'_>) -> Record<'a> {
    Record {
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key(),
        value: message.payload(),
        headers: message
            .headers()
            .map(|headers| {
                headers
                    .iter()
                    .map(|header| (header.key, header.value))
                    .collect()
            })
            .unwrap_or_default(),
    }
}
