//! `kafka_to_s3`: lands what a topic holds in S3, every record exactly once.
//!
//! This file owns the order of the protocol's steps, which is what makes it exact: freeze the plan, write the objects,
//! write the manifest, move the cursor, tell Kafka. Every step may be repeated. Stopped anywhere and run again, it
//! reads the same offsets, writes the same bytes under the same keys and moves the cursor once.

mod broker;
mod memory;
mod progress;
mod range;
mod request;

use std::{
    collections::{BTreeMap, BTreeSet},
    panic,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::Utc;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Map, Value, json};
use tokio::{
    runtime::Handle,
    sync::{OnceCell, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::{
    memory::Memory,
    progress::Progress,
    range::{Chunk, Reader},
    request::Request,
};
use crate::{
    Context, CursorMove, CursorPosition, DurableError, Failure, FailureClass, Field, KafkaSettings,
    Kind, Outcome, Outputs, Problem, S3Settings,
    landing::{
        LandedObject, LandedRange, Manifest, Plan, PlannedRange, Tail,
        columns::{self, Likeness},
        cursor_name, deleted_manifest_key, manifest_key, manifest_key_of, new_plan_id, object_key,
        other_object_key, plan_ranges, read,
    },
    s3::{self, Location, ObjectStore, Written},
};

/// Names that are tried for one object.
const MOST_NAMES: u32 = 8;
/// A list of more partitions does not go into the output, whose size is limited; the manifest has it.
const MOST_LISTED: usize = 1_000;

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
    /// The first record of a chunk is read; the chunk is being filled.
    ChunkBegun,
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

        let plan = self.plan(context, store, request, &stop).await?;
        let manifest_at = Location::new(
            &plan.bucket,
            manifest_key(&plan.prefix, plan.logical_date, &plan.plan_id),
        );
        let landed = match self.earlier(context, store, &plan, &manifest_at).await? {
            Some(manifest) => Landed::Before(manifest),
            None => Landed::Now(
                self.land_ranges(context, store, request, &plan, &stop)
                    .await?,
            ),
        };
        let manifest = self
            .commit(context, store, &plan, &manifest_at, landed)
            .await?;
        let lag = self.tell_kafka(context, &plan, &stop).await;
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
            output: output(&manifest, &manifest_at, lag.as_ref()),
        })
    }

    /// The plan of this task instance: the stored one, or a new one that is stored before it is used.
    async fn plan(
        &self,
        context: &Context,
        store: &ObjectStore,
        request: &Request,
        stop: &CancellationToken,
    ) -> Result<Plan, Failure> {
        let stored = match context.durable.frozen("plan").await.map_err(durable)? {
            Some(stored) => stored,
            None => {
                let plan = self.make_plan(context, store, request, stop).await?;
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
        store: &ObjectStore,
        request: &Request,
        stop: &CancellationToken,
    ) -> Result<Plan, Failure> {
        let cursor = cursor_name(&request.topic, &request.bucket, &request.prefix);
        let positions = context.durable.cursor(&cursor).await.map_err(durable)?;
        let tails = tails(context, store, request, &positions).await?;
        let positions: BTreeMap<i32, i64> = positions
            .into_iter()
            .map(|(partition, position)| (partition, position.next))
            .collect();
        let (kafka, topic, stop) = (self.kafka.clone(), request.topic.clone(), stop.clone());
        let until = request.until;
        let bounds = blocking(move || broker::bounds(&kafka, &topic, until, &stop)).await?;
        let ranges = plan_ranges(
            &request.topic,
            &bounds,
            &positions,
            request.when_deleted,
            request.max_records,
        )
        .map_err(|error| Failure::permanent(error.to_string()).with_hint(error.hint()))?;
        Ok(Plan {
            plan_id: new_plan_id(context.instance.logical_date),
            topic: request.topic.clone(),
            bucket: request.bucket.clone(),
            prefix: request.prefix.clone(),
            logical_date: context.instance.logical_date,
            chunk: request.chunk,
            ranges,
            tails,
        })
    }

    /// The manifest that an earlier try, or a try that runs at the same time, has written.
    async fn earlier(
        &self,
        context: &Context,
        store: &ObjectStore,
        plan: &Plan,
        at: &Location,
    ) -> Result<Option<Manifest>, Failure> {
        let Some(text) = store.get_if_exists(at).await? else {
            return Ok(None);
        };
        let manifest = read::parse_manifest(&text, at)?;
        if !manifest.carries_out(plan) {
            return Err(s3::Error::Conflict { at: at.clone() }.into());
        }
        context
            .log
            .say(format!(
                "another try wrote {at}; its objects are not read again"
            ))
            .await;
        Ok(Some(manifest))
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
        let progress = Arc::new(Progress::of(plan));
        let memory = Memory::new(request.memory_mb, plan.chunk, progress.partitions());
        let at_once = memory.readers;
        let shared = Shared {
            progress: Arc::clone(&progress),
            memory: Arc::new(memory),
        };
        let landing = pin!(
            stream::iter(plan.ranges.clone())
                .map(|range| self.land_range(store, request, plan, range, stop, &shared))
                .buffer_unordered(at_once)
                .try_collect::<Vec<_>>()
        );
        let landed = progress::told(context, &progress, landing).await?;
        self.observer.reached(Step::ObjectsWritten).await?;
        let (mut ranges, mut objects, mut tails) = (Vec::new(), Vec::new(), Vec::new());
        for partition in landed {
            ranges.push(partition.range);
            objects.extend(partition.objects);
            tails.extend(partition.tail);
        }
        let manifest = Manifest::new(
            &plan.topic,
            &plan.plan_id,
            plan.logical_date,
            ranges,
            objects,
        );
        Ok(manifest.with_tails(tails))
    }

    async fn land_range(
        &self,
        store: &ObjectStore,
        request: &Request,
        plan: &Plan,
        range: PlannedRange,
        stop: &CancellationToken,
        shared: &Shared,
    ) -> Result<LandedPartition, Failure> {
        let PlannedRange {
            partition,
            start,
            end,
            ..
        } = range;
        let earlier_tail = plan
            .tails
            .iter()
            .find(|tail| tail.partition == partition)
            .cloned();
        let mut landed = LandedPartition {
            range: LandedRange {
                partition,
                start,
                end,
                records: 0,
            },
            objects: Vec::new(),
            tail: earlier_tail.clone(),
        };
        if range.is_empty() {
            return Ok(landed);
        }
        let reader = Reader {
            kafka: self.kafka.clone(),
            topic: plan.topic.clone(),
            range,
            limits: plan.chunk,
            when_deleted: request.when_deleted,
            tail: earlier_tail,
            memory: Arc::clone(&shared.memory),
            runtime: Handle::current(),
            observer: Arc::clone(&self.observer),
            stop: stop.clone(),
            progress: Arc::clone(&shared.progress),
        };
        // The chunks of all partitions that are filled, wait here or are written share the landing's memory.
        let (chunks, mut encoded) = mpsc::channel(1);
        let reading = tokio::task::spawn_blocking(move || reader.read(&chunks));
        while let Some(chunk) = encoded.recv().await {
            self.observer.reached(Step::ChunkRead).await?;
            landed.tail = Some(chunk.tail.clone());
            let object = write_chunk(store, plan, partition, chunk, &shared.memory).await?;
            shared.progress.wrote(object.bytes);
            landed.range.records += object.records;
            landed.objects.push(object);
            self.observer.reached(Step::ObjectWritten).await?;
        }
        landed.range.start = joined(reading).await?;
        Ok(landed)
    }

    /// The manifest, then the cursor, then the mark that makes a later clear of this task harmless. Answers the manifest
    /// that stands: of two tries that carry out one plan at the same time the first writes it.
    async fn commit(
        &self,
        context: &Context,
        store: &ObjectStore,
        plan: &Plan,
        manifest_at: &Location,
        landed: Landed,
    ) -> Result<Manifest, Failure> {
        let cursor = cursor_name(&plan.topic, &plan.bucket, &plan.prefix);
        let marked = context
            .durable
            .frozen("landed")
            .await
            .map_err(durable)?
            .is_some();
        let manifest = match landed {
            Landed::Before(manifest) => manifest,
            Landed::Now(manifest) => {
                if !marked {
                    // A plan that is overtaken must not leave a manifest behind.
                    self.check_cursor(context, &cursor, plan).await?;
                }
                let text = Bytes::from(manifest.to_json());
                match store.put_if_absent(manifest_at, text).await {
                    Ok(_) => manifest,
                    Err(error @ s3::Error::Conflict { .. }) => self
                        .earlier(context, store, plan, manifest_at)
                        .await?
                        .ok_or(error)?,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        self.observer.reached(Step::ManifestWritten).await?;
        if marked {
            return Ok(manifest);
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
        let advanced = context
            .durable
            .advance(&cursor, &plan.plan_id, &moves)
            .await;
        if let Err(DurableError::CursorMoved { .. }) = &advanced {
            // Another run was faster between the check and here. This plan has not moved the cursor and never will, so
            // its manifest would name records that the other run's manifest names too.
            store.delete(manifest_at).await?;
        }
        advanced.map_err(durable)?;
        self.observer.reached(Step::CursorMoved).await?;
        context
            .durable
            .freeze("landed", json!({ "manifest": manifest_at.to_string() }))
            .await
            .map_err(durable)?;
        self.observer.reached(Step::Marked).await?;
        Ok(manifest)
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

    /// Commits the offsets for lag tools, and asks how much every partition has behind the plan. Nothing depends on either.
    async fn tell_kafka(
        &self,
        context: &Context,
        plan: &Plan,
        stop: &CancellationToken,
    ) -> Option<BTreeMap<i32, i64>> {
        let (kafka, planned, stop) = (self.kafka.clone(), plan.clone(), stop.clone());
        let asking = blocking(move || broker::lag(&kafka, &planned, &stop));
        let (kafka, planned) = (self.kafka.clone(), plan.clone());
        let telling = blocking(move || broker::commit(&kafka, &planned));
        let (lag, told) = tokio::join!(courteously(asking), courteously(telling));
        for (answer, what) in [
            (lag.as_ref().err(), "what is left in the topic is not known"),
            (told.as_ref().err(), "lag tools were not told"),
        ] {
            if let Some(failure) = answer {
                context
                    .log
                    .say(format!("the landing is complete; {what}: {failure}"))
                    .await;
            }
        }
        lag.ok()
    }
}

/// Waits for what nothing depends on, and not for long.
async fn courteously<T>(asking: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let slow = |_| Failure::retryable("the broker is too slow");
    timeout(COURTESY, asking).await.map_err(slow)?
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
                "A list of `{partition, start, end, records, lag}`: offsets from `start` to before `end`, and how many the partition had from `end` on when the task ended. Null for more than 1,000 partitions.",
            ),
            (
                "lag_left",
                "The `lag` of all partitions: offsets that came after the plan was made, or that it left to later runs. Null when the broker did not say.",
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

/// What all partitions of a landing share.
struct Shared {
    progress: Arc<Progress>,
    memory: Arc<Memory>,
}

/// Who wrote the objects.
enum Landed {
    /// Another try, whose manifest stands.
    Before(Manifest),
    /// This try; the manifest is not yet written.
    Now(Manifest),
}

/// What was landed of one partition.
struct LandedPartition {
    range: LandedRange,
    objects: Vec<LandedObject>,
    tail: Option<Tail>,
}

/// The record that ends every partition, from the manifests of the plans that moved the cursor to where it stands.
async fn tails(
    context: &Context,
    store: &ObjectStore,
    request: &Request,
    positions: &BTreeMap<i32, CursorPosition>,
) -> Result<Vec<Tail>, Failure> {
    let moved_by = |partition| positions.get(&partition).map(|position| &position.moved_by);
    let plans: BTreeSet<&String> = positions
        .values()
        .map(|position| &position.moved_by)
        .collect();
    let mut tails = Vec::new();
    for plan_id in plans {
        match manifest_of(store, request, plan_id).await? {
            Some(manifest) => tails.extend(
                manifest
                    .tails
                    .into_iter()
                    .filter(|tail| moved_by(tail.partition) == Some(plan_id)),
            ),
            None => {
                context
                    .log
                    .say(format!(
                        "the manifest of plan {plan_id}, which was landed last, is not there; whether the topic was \
                         created again since is judged by its offsets alone"
                    ))
                    .await;
            }
        }
    }
    tails.sort_by_key(|tail| tail.partition);
    Ok(tails)
}

/// The manifest of a plan, also of one whose objects were deleted since.
async fn manifest_of(
    store: &ObjectStore,
    request: &Request,
    plan_id: &str,
) -> Result<Option<Manifest>, Failure> {
    let Some(key) = manifest_key_of(&request.prefix, plan_id) else {
        return Ok(None);
    };
    for key in [Some(key.clone()), deleted_manifest_key(&key)]
        .into_iter()
        .flatten()
    {
        let at = Location::new(&request.bucket, key);
        if let Some(text) = store.get_if_exists(&at).await? {
            return read::parse_manifest(&text, &at).map(Some);
        }
    }
    Ok(None)
}

/// Writes a chunk as an object, or finds that an earlier try did.
async fn write_chunk(
    store: &ObjectStore,
    plan: &Plan,
    partition: i32,
    chunk: Chunk,
    memory: &Memory,
) -> Result<LandedObject, Failure> {
    let own_key = object_key(
        &plan.prefix,
        plan.logical_date,
        &plan.topic,
        partition,
        chunk.first_offset,
        chunk.last_offset,
    );
    let landed = |key: String, records: u64, bytes: usize, sha256: String| LandedObject {
        key,
        partition,
        first_offset: chunk.first_offset,
        last_offset: chunk.last_offset,
        records,
        bytes: bytes as u64,
        sha256,
    };
    for again in 0..MOST_NAMES {
        let key = match again {
            0 => own_key.clone(),
            again => other_object_key(&own_key, again),
        };
        let at = Location::new(&plan.bucket, &key);
        let body = chunk.body.clone();
        let own = |key| landed(key, chunk.records, chunk.body.len(), chunk.sha256.clone());
        match store.put_known_if_absent(&at, body, &chunk.sha256).await {
            Ok(Written::Created) => return Ok(own(key)),
            Ok(Written::AlreadyThere) if is_young(store, &at).await? => return Ok(own(key)),
            Ok(Written::AlreadyThere) => {}
            Err(s3::Error::Conflict { .. }) => {
                let _alone = memory.comparing().await;
                let stored = store.get(&at).await?;
                let found = stored.clone();
                let ours = chunk.body.clone();
                let span = (chunk.first_offset, chunk.last_offset);
                match blocking(move || Ok(compare(&ours, &found, span))).await? {
                    // The log was compacted since, or an earlier version of this program wrote other bytes.
                    Some((Likeness::Same | Likeness::Fewer, records))
                        if is_young(store, &at).await? =>
                    {
                        return Ok(landed(key, records, stored.len(), s3::sha256(&stored)));
                    }
                    // A try that came to a compacted log wrote less than is known here.
                    Some((Likeness::Same | Likeness::Fewer | Likeness::More, _)) => {}
                    Some((Likeness::Different, _)) | None => {
                        return Err(s3::Error::Conflict { at }.into());
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    let at = Location::new(&plan.bucket, &own_key);
    Err(s3::Error::Conflict { at }.into())
}

/// Whether an object is so young that nobody deletes it before its manifest is written. An older one may be deleted at any
/// moment as an orphan ([`crate::lake::gc`]), so the records are written again beside it.
async fn is_young(store: &ObjectStore, at: &Location) -> Result<bool, Failure> {
    let found = store.look(at).await?;
    Ok(found.is_some_and(|found| Utc::now() - found.modified < s3::FRESH))
}

/// How our records compare with those of a stored object, and how many it has; `None` when it is no object of that span.
fn compare(ours: &[u8], stored: &[u8], span: (i64, i64)) -> Option<(Likeness, u64)> {
    let ours = columns::decode(ours).ok()?;
    let stored = columns::decode(stored).ok()?;
    if columns::span(&stored).ok()? != Some(span) {
        return None;
    }
    let likeness = columns::compare(&ours, &stored).ok()?;
    Some((likeness, stored.height() as u64))
}

fn output(manifest: &Manifest, at: &Location, lag: Option<&BTreeMap<i32, i64>>) -> Value {
    let listed = (manifest.ranges.len() <= MOST_LISTED).then(|| {
        let with_lag = |range: &LandedRange| {
            json!({
                "partition": range.partition,
                "start": range.start,
                "end": range.end,
                "records": range.records,
                "lag": lag.and_then(|lag| lag.get(&range.partition)),
            })
        };
        manifest.ranges.iter().map(with_lag).collect::<Vec<_>>()
    });
    json!({
        "manifest": at.to_string(),
        "records": manifest.records,
        "bytes": manifest.bytes,
        "objects": manifest.objects.len(),
        "partitions": listed,
        "lag_left": lag.map(|lag| lag.values().sum::<i64>()),
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
