//! `kafka_to_s3`: lands what a topic holds in S3, every record exactly once.
//!
//! This file owns the order of the protocol's steps, which is what makes it exact: freeze the plan, write the objects,
//! write the manifest, move the cursor, tell Kafka. Every step may be repeated. Stopped anywhere and run again, it
//! reads the same offsets, writes the same bytes under the same keys and moves the cursor once.

mod broker;
mod range;
mod request;

use std::{
    collections::BTreeMap,
    panic,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Map, Value, json};
use tokio::{
    sync::{OnceCell, mpsc},
    task::JoinHandle,
    time::{Instant, interval_at, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    range::{Chunk, Reader},
    request::Request,
};
use crate::{
    Context, CursorMove, DurableError, Failure, FailureClass, Field, KafkaSettings, Kind, Outcome,
    Outputs, Problem, S3Settings,
    landing::{
        LandedObject, LandedRange, Manifest, Plan, PlannedRange, columns, cursor_name,
        manifest_key, object_key, plan_ranges, read,
    },
    s3::{self, Location, ObjectStore},
};

/// Partitions that are read at the same time; each needs up to three chunks of memory.
const PARTITIONS_AT_ONCE: usize = 4;

/// How long the group commit, which nothing depends on, may hold up the end of a try.
const COURTESY: Duration = Duration::from_secs(10);

/// The kind `kafka_to_s3`.
pub struct KafkaToS3 {
    kafka: KafkaSettings,
    s3: S3Settings,
    store: OnceCell<ObjectStore>,
    observer: Arc<dyn Observer>,
}

/// A step of the protocol that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The plan is made and not yet stored.
    PlanMade,
    /// The plan is stored; nothing has been read.
    PlanFrozen,
    /// A chunk is read and encoded; its object is not yet written.
    ChunkRead,
    /// An object is written.
    ObjectWritten,
    /// All objects are written; the manifest is not.
    ObjectsWritten,
    /// The manifest is written; the cursor stands where it stood.
    ManifestWritten,
    /// The cursor is moved; nobody has been told.
    CursorMoved,
    /// The landing is marked as done; Kafka has not been told.
    Marked,
}

/// Is told of every step, and may stop the try there. The crash tests stop at each of them.
#[async_trait]
pub trait Observer: Send + Sync {
    /// Called when `step` is done.
    ///
    /// # Errors
    /// The try ends with this failure.
    async fn reached(&self, step: Step) -> Result<(), Failure>;
}

struct Nobody;

#[async_trait]
impl Observer for Nobody {
    async fn reached(&self, _step: Step) -> Result<(), Failure> {
        Ok(())
    }
}

impl KafkaToS3 {
    /// The kind, for these services. Nothing is connected before the first try.
    pub fn new(kafka: KafkaSettings, s3: S3Settings) -> Self {
        Self {
            kafka,
            s3,
            store: OnceCell::new(),
            observer: Arc::new(Nobody),
        }
    }

    /// The kind with somebody who is told of every step.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    async fn land(&self, context: &Context, request: &Request) -> Result<Outcome, Failure> {
        let store = self
            .store
            .get_or_init(|| ObjectStore::connect(&self.s3))
            .await;
        store.check_bucket(&request.bucket).await?;
        // Threads that read stop when this try ends, however it ends.
        let stop = context.cancel.child_token();
        let _stops_the_threads = stop.clone().drop_guard();

        let plan = self.plan(context, request, &stop).await?;
        let manifest_at = Location::new(
            &plan.bucket,
            manifest_key(&plan.prefix, plan.logical_date, &plan.plan_id),
        );
        let (manifest, text) = match store.get_if_exists(&manifest_at).await? {
            Some(_) => {
                context
                    .log
                    .say(format!(
                        "an earlier try wrote {manifest_at}; its objects are not read again"
                    ))
                    .await;
                (read::manifest(store, &manifest_at).await?, None)
            }
            None => {
                let manifest = self
                    .land_ranges(context, store, request, &plan, &stop)
                    .await?;
                let text = manifest.to_json();
                (manifest, Some(text))
            }
        };
        self.commit(context, store, &plan, &manifest_at, text)
            .await?;
        let lag_left = self.tell_kafka(context, &plan, &stop).await;
        context
            .log
            .say(format!(
                "landed {} records ({} bytes) in {} objects; manifest {manifest_at}",
                manifest.records,
                manifest.bytes,
                manifest.objects.len()
            ))
            .await;
        Ok(Outcome::Success {
            output: output(&manifest, &manifest_at, lag_left),
        })
    }

    /// The plan of this task instance: the stored one, or a new one that is stored before it is used.
    async fn plan(
        &self,
        context: &Context,
        request: &Request,
        stop: &CancellationToken,
    ) -> Result<Plan, Failure> {
        let stored = match context.durable.frozen("plan").await.map_err(durable)? {
            Some(stored) => stored,
            None => {
                let plan = self.make_plan(context, request, stop).await?;
                self.observer.reached(Step::PlanMade).await?;
                let value = serde_json::to_value(&plan)
                    .expect("a plan has text keys and finite numbers only");
                context
                    .durable
                    .freeze("plan", value)
                    .await
                    .map_err(durable)?
            }
        };
        let plan: Plan = serde_json::from_value(stored).map_err(|error| {
            Failure::permanent(format!(
                "the stored plan of this task cannot be read: {error}"
            ))
        })?;
        if (&plan.topic, &plan.bucket, &plan.prefix)
            != (&request.topic, &request.bucket, &request.prefix)
        {
            return Err(Failure::permanent(format!(
                "this run planned to land topic `{}` in `{}/{}`, the task now says topic `{}` in `{}/{}`",
                plan.topic, plan.bucket, plan.prefix, request.topic, request.bucket, request.prefix
            ))
            .with_hint("trigger a new run; a run keeps the plan of its first try"));
        }
        let offsets: i64 = plan
            .ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        context
            .log
            .say(format!(
                "plan {}: {offsets} offsets of topic `{}` in {} partitions",
                plan.plan_id,
                plan.topic,
                plan.ranges.len()
            ))
            .await;
        self.observer.reached(Step::PlanFrozen).await?;
        Ok(plan)
    }

    async fn make_plan(
        &self,
        context: &Context,
        request: &Request,
        stop: &CancellationToken,
    ) -> Result<Plan, Failure> {
        let cursor = cursor_name(&request.topic, &request.bucket, &request.prefix);
        let positions = context.durable.cursor(&cursor).await.map_err(durable)?;
        let positions: BTreeMap<i32, i64> = positions
            .into_iter()
            .map(|(partition, position)| (partition, position.next))
            .collect();
        let (kafka, topic, stop) = (self.kafka.clone(), request.topic.clone(), stop.clone());
        let bounds = blocking(move || broker::bounds(&kafka, &topic, &stop)).await?;
        let ranges = plan_ranges(
            &request.topic,
            &bounds,
            &positions,
            request.when_deleted,
            request.max_records,
        )
        .map_err(|error| Failure::permanent(error.to_string()).with_hint(error.hint()))?;
        Ok(Plan {
            plan_id: uuid::Uuid::new_v4().simple().to_string(),
            topic: request.topic.clone(),
            bucket: request.bucket.clone(),
            prefix: request.prefix.clone(),
            logical_date: context.instance.logical_date,
            chunk: request.chunk,
            ranges,
        })
    }

    /// Reads and writes every range, a few partitions at a time, and says how far it is.
    async fn land_ranges(
        &self,
        context: &Context,
        store: &ObjectStore,
        request: &Request,
        plan: &Plan,
        stop: &CancellationToken,
    ) -> Result<Manifest, Failure> {
        let done = Arc::new(AtomicU64::new(0));
        let landing = pin!(
            stream::iter(plan.ranges.clone())
                .map(|range| self.land_range(store, request, plan, range, stop, &done))
                .buffer_unordered(PARTITIONS_AT_ONCE)
                .try_collect::<Vec<_>>()
        );
        let landed = with_progress(context, plan, &done, landing).await?;
        self.observer.reached(Step::ObjectsWritten).await?;
        let (ranges, objects): (Vec<_>, Vec<_>) = landed.into_iter().unzip();
        Ok(Manifest::new(
            &plan.topic,
            &plan.plan_id,
            plan.logical_date,
            ranges,
            objects.concat(),
        ))
    }

    async fn land_range(
        &self,
        store: &ObjectStore,
        request: &Request,
        plan: &Plan,
        range: PlannedRange,
        stop: &CancellationToken,
        done: &Arc<AtomicU64>,
    ) -> Result<(LandedRange, Vec<LandedObject>), Failure> {
        let PlannedRange {
            partition,
            start,
            end,
            ..
        } = range;
        if range.is_empty() {
            return Ok((
                LandedRange {
                    partition,
                    start,
                    end,
                    records: 0,
                },
                Vec::new(),
            ));
        }
        let reader = Reader {
            kafka: self.kafka.clone(),
            topic: plan.topic.clone(),
            range,
            limits: plan.chunk,
            when_deleted: request.when_deleted,
            stop: stop.clone(),
            done: Arc::clone(done),
        };
        // One chunk waits here while one is written and one is read: this bounds the memory.
        let (chunks, mut encoded) = mpsc::channel(1);
        let reading = tokio::task::spawn_blocking(move || reader.read(&chunks));
        let mut objects = Vec::new();
        while let Some(chunk) = encoded.recv().await {
            self.observer.reached(Step::ChunkRead).await?;
            objects.push(write_chunk(store, plan, partition, chunk).await?);
            self.observer.reached(Step::ObjectWritten).await?;
        }
        let start = joined(reading).await?;
        let records = objects.iter().map(|object| object.records).sum();
        Ok((
            LandedRange {
                partition,
                start,
                end,
                records,
            },
            objects,
        ))
    }

    /// The manifest, then the cursor, then the mark that makes a later clear of this task harmless. `text` is `None`
    /// when the manifest exists.
    async fn commit(
        &self,
        context: &Context,
        store: &ObjectStore,
        plan: &Plan,
        manifest_at: &Location,
        text: Option<Vec<u8>>,
    ) -> Result<(), Failure> {
        let cursor = cursor_name(&plan.topic, &plan.bucket, &plan.prefix);
        let marked = context
            .durable
            .frozen("landed")
            .await
            .map_err(durable)?
            .is_some();
        if let Some(text) = text {
            if !marked {
                // A plan that is overtaken must not leave a manifest behind.
                self.check_cursor(context, &cursor, plan).await?;
            }
            store.put_if_absent(manifest_at, Bytes::from(text)).await?;
        }
        self.observer.reached(Step::ManifestWritten).await?;
        if marked {
            return Ok(());
        }
        let moves: Vec<CursorMove> = plan
            .ranges
            .iter()
            .map(|range| CursorMove {
                partition: range.partition,
                from: range.cursor,
                to: range.end,
            })
            .collect();
        context
            .durable
            .advance(&cursor, &plan.plan_id, &moves)
            .await
            .map_err(durable)?;
        self.observer.reached(Step::CursorMoved).await?;
        context
            .durable
            .freeze("landed", json!({ "manifest": manifest_at.to_string() }))
            .await
            .map_err(durable)?;
        self.observer.reached(Step::Marked).await
    }

    async fn check_cursor(
        &self,
        context: &Context,
        cursor: &str,
        plan: &Plan,
    ) -> Result<(), Failure> {
        let positions = context.durable.cursor(cursor).await.map_err(durable)?;
        for range in &plan.ranges {
            let Some(position) = positions.get(&range.partition) else {
                continue;
            };
            if position.next != range.cursor && position.moved_by != plan.plan_id {
                return Err(durable(DurableError::CursorMoved {
                    cursor: cursor.to_owned(),
                    partition: range.partition,
                    expected: range.cursor,
                    found: position.next,
                }));
            }
        }
        Ok(())
    }

    /// Commits the offsets for lag tools, and asks how much came meanwhile. Nothing depends on either.
    async fn tell_kafka(
        &self,
        context: &Context,
        plan: &Plan,
        stop: &CancellationToken,
    ) -> Option<i64> {
        let (kafka, plan, stop) = (self.kafka.clone(), plan.clone(), stop.clone());
        let telling = blocking(move || broker::commit_and_lag(&kafka, &plan, &stop));
        match timeout(COURTESY, telling).await {
            Ok(Ok(lag)) => Some(lag),
            Ok(Err(failure)) => {
                context
                    .log
                    .say(format!(
                        "the landing is complete; lag tools were not told: {failure}"
                    ))
                    .await;
                None
            }
            Err(_) => {
                context
                    .log
                    .say("the landing is complete; lag tools were not told: the broker is too slow")
                    .await;
                None
            }
        }
    }
}

#[async_trait]
impl Kind for KafkaToS3 {
    fn name(&self) -> &'static str {
        "kafka_to_s3"
    }

    fn summary(&self) -> &'static str {
        "Lands the new records of a Kafka topic in S3 as Parquet, every record exactly once."
    }

    fn fields(&self) -> &'static [Field] {
        request::FIELDS
    }

    fn outputs(&self) -> Outputs {
        Outputs::Known(&[
            (
                "manifest",
                "Where the manifest is, as `s3://bucket/key`; the `from` of a `clean` task.",
            ),
            ("records", "Records landed."),
            ("bytes", "Bytes of the objects written."),
            ("objects", "Objects written."),
            (
                "partitions",
                "A list of `{partition, start, end, records}`; `end` is exclusive.",
            ),
            (
                "lag_left",
                "Offsets that came after the plan was made; null when the broker did not say.",
            ),
        ])
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        request::check(with)
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        let request = Request::parse(&with)?;
        tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(stopped()),
            outcome = self.land(context, &request) => outcome,
        }
    }
}

async fn write_chunk(
    store: &ObjectStore,
    plan: &Plan,
    partition: i32,
    chunk: Chunk,
) -> Result<LandedObject, Failure> {
    let Chunk {
        first_offset,
        last_offset,
        records,
        body,
    } = chunk;
    let key = object_key(
        &plan.prefix,
        plan.logical_date,
        &plan.topic,
        partition,
        first_offset,
        last_offset,
    );
    let at = Location::new(&plan.bucket, &key);
    let stored = match store.put_if_absent(&at, body.clone()).await {
        Ok(_) => body,
        Err(s3::Error::Conflict { .. }) => same_records(store, &at, body).await?,
        Err(error) => return Err(error.into()),
    };
    Ok(LandedObject {
        key,
        partition,
        first_offset,
        last_offset,
        records,
        bytes: stored.len() as u64,
        sha256: s3::sha256(&stored),
    })
}

/// Settles a conflict: an earlier version of this program may have encoded the same records as other bytes. Answers the
/// bytes that are stored.
async fn same_records(store: &ObjectStore, at: &Location, body: Bytes) -> Result<Bytes, Failure> {
    let stored = store.get(at).await?;
    let found = stored.clone();
    let same = blocking(move || {
        let ours = columns::decode(&body);
        let theirs = columns::decode(&found);
        Ok(matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours.equals_missing(&theirs)))
    })
    .await?;
    if same {
        Ok(stored)
    } else {
        Err(s3::Error::Conflict { at: at.clone() }.into())
    }
}

/// Waits for `landing` and writes a line after a second and then every five.
async fn with_progress<T>(
    context: &Context,
    plan: &Plan,
    done: &AtomicU64,
    mut landing: std::pin::Pin<&mut impl Future<Output = T>>,
) -> T {
    let total: i64 = plan
        .ranges
        .iter()
        .map(|range| range.end - range.start)
        .sum();
    let began = Instant::now();
    let mut ticks = interval_at(began + Duration::from_secs(1), Duration::from_secs(5));
    loop {
        tokio::select! {
            biased;
            landed = &mut landing => return landed,
            now = ticks.tick() => {
                let records = done.load(Ordering::Relaxed);
                let seconds = now.duration_since(began).as_secs_f64();
                #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
                let rate = records as f64 / seconds;
                context.log.say(format!("read {records} records of at most {total} offsets, {rate:.0} a second")).await;
            }
        }
    }
}

fn output(manifest: &Manifest, at: &Location, lag_left: Option<i64>) -> Value {
    json!({
        "manifest": at.to_string(),
        "records": manifest.records,
        "bytes": manifest.bytes,
        "objects": manifest.objects.len(),
        "partitions": manifest.ranges,
        "lag_left": lag_left,
    })
}

fn durable(error: DurableError) -> Failure {
    let message = error.to_string();
    match error {
        DurableError::Fenced => Failure { class: FailureClass::Lost, message, hint: None, exit_code: None },
        DurableError::CursorMoved { .. } => Failure::permanent(message).with_hint(
            "another run landed these records while this one was under way; trigger a new run, it goes on from there",
        ),
        DurableError::Unavailable(_) => Failure::retryable(message),
    }
}

fn stopped() -> Failure {
    Failure::retryable(
        "stopped before the landing was complete; the next try goes on with the same plan",
    )
}

/// Runs something that blocks on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    joined(tokio::task::spawn_blocking(work)).await
}

async fn joined<T>(thread: JoinHandle<Result<T, Failure>>) -> Result<T, Failure> {
    match thread.await {
        Ok(answer) => answer,
        Err(died) => match died.try_into_panic() {
            Ok(panic) => panic::resume_unwind(panic),
            Err(_) => Err(stopped()),
        },
    }
}
