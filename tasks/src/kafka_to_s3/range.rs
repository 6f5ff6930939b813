//! Reads one planned range and cuts it into encoded objects. Everything here blocks, on a thread of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers},
    types::RDKafkaErrorCode,
};
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use super::{broker, stopped};
use crate::{
    Failure, KafkaSettings,
    kafka::{self, PATIENCE, Trouble},
    landing::{
        ChunkLimits, Chunker, Cut, PlanError, PlannedRange, WhenDeleted,
        columns::{self, Columns, Record},
    },
};

/// How soon a cancel is noticed while nothing comes.
const POLL: Duration = Duration::from_millis(100);

/// One object, ready to be written.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) first_offset: i64,
    pub(super) last_offset: i64,
    pub(super) records: u64,
    pub(super) body: Bytes,
}

/// Reads one range of a plan.
pub(super) struct Reader {
    pub(super) kafka: KafkaSettings,
    pub(super) topic: String,
    pub(super) range: PlannedRange,
    pub(super) limits: ChunkLimits,
    pub(super) when_deleted: WhenDeleted,
    pub(super) stop: CancellationToken,
    /// Counts the records of all readers of a landing.
    pub(super) done: Arc<AtomicU64>,
}

/// What the client has to say.
enum Event {
    Record(i64),
    /// The log ends here for now.
    End,
    Silence,
}

impl Reader {
    /// Sends every chunk of the range. Answers the offset at which it began: the planned one, or a later one where
    /// retention deleted records and the task says to go on.
    pub(super) fn read(&self, chunks: &Sender<Chunk>) -> Result<i64, Failure> {
        let consumer = broker::consumer(&self.kafka, &self.topic)?;
        let start = self.start(&consumer)?;
        let mut next = start;
        let mut chunker = Chunker::new(self.limits);
        let mut open = Columns::default();
        let mut heard = Instant::now();
        let mut end_confirmed = false;
        self.assign(&consumer, next)?;
        while next < self.range.end {
            if self.stop.is_cancelled() {
                return Err(stopped());
            }
            match self.poll(&consumer, next, &mut open, &mut chunker, chunks)? {
                Event::Record(offset) => {
                    next = offset + 1;
                    end_confirmed = false;
                    heard = Instant::now();
                }
                // Only records move `next`, and a range may end in what is no record: markers and aborted records.
                // What the leader now calls stable reaches the planned end, so a second end, seen by a fetch that
                // began after that, means that nothing is left.
                Event::End if end_confirmed => break,
                Event::End => {
                    self.confirm_end(&consumer)?;
                    self.assign(&consumer, next)?;
                    end_confirmed = true;
                    heard = Instant::now();
                }
                Event::Silence if heard.elapsed() > PATIENCE => {
                    return Err(kafka::away(
                        &self.kafka,
                        &format!("read topic `{}`", self.topic),
                    ));
                }
                Event::Silence => {}
            }
        }
        self.close(open, chunks)?;
        Ok(start)
    }

    /// Waits for the next event; takes the record if it is one of ours, and closes the chunk if it is full.
    fn poll(
        &self,
        consumer: &BaseConsumer,
        next: i64,
        open: &mut Columns,
        chunker: &mut Chunker,
        chunks: &Sender<Chunk>,
    ) -> Result<Event, Failure> {
        match consumer.poll(POLL) {
            None => Ok(Event::Silence),
            // What an earlier assignment had under way.
            Some(Ok(message)) if message.offset() < next => Ok(Event::Silence),
            Some(Ok(message)) => {
                let offset = message.offset();
                if offset < self.range.end {
                    let record = record(&message);
                    open.push(&record);
                    self.done.fetch_add(1, Ordering::Relaxed);
                    if chunker.take(record.payload_bytes()) == Cut::Close {
                        self.close(std::mem::take(open), chunks)?;
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
                Err(self.deleted(next, low))
            }
            // The client reconnects by itself; `PATIENCE` decides how long that may take.
            Some(Err(error)) if kafka::trouble(&error) == Trouble::Away => Ok(Event::Silence),
            Some(Err(error)) => Err(kafka::failure(
                &self.kafka,
                &format!("read topic `{}`", self.topic),
                &error,
            )),
        }
    }

    fn close(&self, open: Columns, chunks: &Sender<Chunk>) -> Result<(), Failure> {
        let Some((first_offset, last_offset)) = open.span() else {
            return Ok(());
        };
        let records = open.len() as u64;
        let body = open.finish().and_then(columns::encode).map_err(|error| {
            Failure::permanent(format!("records cannot be written as Parquet: {error}"))
        })?;
        let chunk = Chunk {
            first_offset,
            last_offset,
            records,
            body: Bytes::from(body),
        };
        // Nobody receives any more once the try has ended.
        chunks.blocking_send(chunk).map_err(|_| stopped())
    }

    /// Where to begin: retention may have been faster than the plan.
    fn start(&self, consumer: &BaseConsumer) -> Result<i64, Failure> {
        let (low, _) = self.bounds(consumer)?;
        let start = self.range.start;
        match self.when_deleted {
            _ if low <= start => Ok(start),
            WhenDeleted::Continue => Ok(low.min(self.range.end)),
            WhenDeleted::Fail => Err(self.deleted(start, low)),
        }
    }

    /// Checks that the log still reaches the planned end.
    fn confirm_end(&self, consumer: &BaseConsumer) -> Result<(), Failure> {
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

    fn bounds(&self, consumer: &BaseConsumer) -> Result<(i64, i64), Failure> {
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

    fn assign(&self, consumer: &BaseConsumer, next: i64) -> Result<(), Failure> {
        let mut position = TopicPartitionList::with_capacity(1);
        position
            .add_partition_offset(&self.topic, self.range.partition, Offset::Offset(next))
            .and_then(|()| consumer.assign(&position))
            .map_err(|error| {
                kafka::failure(&self.kafka, &format!("read topic `{}`", self.topic), &error)
            })
    }
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
