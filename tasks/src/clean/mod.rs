//! The kind `clean`: from landed messages to one partition of a dataset.
//!
//! Every message of the landing is cleaned by the dataset file ([`crate::dataset`]). Rows become Parquet, the latest of each key;
//! everything else goes to the dead-letter set with its rule, offset and raw bytes. Objects are named by their content and the
//! manifest is written last, so a rerun replaces exactly its partition and a crash leaves nothing that a reader could see.
//! This kind never drops a message without counting it.
//!
//! Memory is bounded whatever the number of rows: a first pass cleans the landed objects and lets their rows wait (beyond a limit in a
//! temporary file), the keys are compared split on a hash, and a second pass writes the rows that stay.

mod keys;
mod pass;
mod rows;
mod spill;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use polars::{polars_utils::compression::ZstdLevel, prelude::*};
use serde_json::{Map, Value, json};
use tokio_util::task::AbortOnDropHandle;

use self::{
    pass::{DeadLetters, Pass, PassError, Tally},
    rows::{Frame, Held, Superseded},
};
use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem, blocking,
    dataset::{Catalog, Dataset},
    lake::{Counts, Part, Partition, StoredColumn, folder},
    landing::{self, LandedObject, Manifest},
    s3::{Location, ObjectStore, sha256},
};

/// A part is closed by the landed object that brings it to so many rows, or to its share of the memory before compression.
const ROWS_PER_PART: usize = 1_000_000;
/// How often the log says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// What `memory_mb` is unless the task says otherwise. Half of it is for rows that wait, an eighth for the rows of one part.
const DEFAULT_MEMORY_MB: u64 = 512;
const LEAST_MEMORY_MB: u64 = 16;
const MOST_MEMORY_MB: u64 = 1 << 20;
/// Level 1 is within 2 % of level 3 in size and takes half the time.
const ZSTD_LEVEL: i32 = 1;

const FIELDS: &[Field] = &[
    Field {
        name: "dataset",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "The dataset file that says what a clean row is, by its id.",
    },
    Field {
        name: "from",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "The `s3://` address of a landing manifest: the `manifest` output of a `kafka_to_s3` task.",
    },
    Field {
        name: "to",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "The `s3://` prefix of the dataset, such as `s3://lake/clean/pins/`.",
    },
    Field {
        name: "partition",
        field_type: FieldType::Text,
        presence: Presence::Optional {
            default: "logical date and plan of the landing",
        },
        doc: "The name of the partition to write; cleaning under the same name again replaces it.",
    },
    Field {
        name: "memory_mb",
        field_type: FieldType::Integer,
        presence: Presence::Optional { default: "512" },
        doc: "The memory for rows, in megabytes: what does not fit waits in a temporary file.",
    },
];

const OUTPUTS: Outputs = Outputs::Known(&[
    ("manifest", "the address of the partition's manifest"),
    ("partition", "the partition's name"),
    ("landed", "messages that were read"),
    ("cleaned", "rows that were written"),
    (
        "dead_lettered",
        "messages that could not be read or had the wrong shape",
    ),
    ("quarantined", "rows that broke the contract"),
    ("duplicates", "rows whose key came again later in the batch"),
    ("rules", "how often each rule fired"),
    (
        "new_fields",
        "the fields that the contract does not know, and in how many messages each was",
    ),
    (
        "dead_letters",
        "the prefix of the dead-letter set, or null when there is none",
    ),
]);

/// Cleans what a `kafka_to_s3` task landed.
pub struct Clean {
    store: ObjectStore,
    catalog: Arc<Catalog>,
}

impl Clean {
    /// The kind, for one store and the datasets of the process.
    pub fn new(store: ObjectStore, catalog: Arc<Catalog>) -> Self {
        Self { store, catalog }
    }

    fn dataset(&self, id: &str) -> Result<Arc<Dataset>, Failure> {
        self.catalog.get(id).ok_or_else(|| {
            Failure::permanent(format!("unknown dataset `{id}`"))
                .with_hint(known_datasets(&self.catalog))
        })
    }

    /// Reads and cleans the landed objects, as many at a time as there are cores.
    async fn clean_all(
        &self,
        context: &Context,
        job: &Job,
        manifest: &Manifest,
        pass: &Arc<Pass>,
    ) -> Result<Cleaned, Failure> {
        let mut cleaned = Cleaned::default();
        let objects = (0_u32..).zip(manifest.objects.iter().cloned());
        // Those that come next are fetched while others are worked on.
        let bodies = stream::iter(objects)
            .map(|(chunk, object)| {
                let (store, bucket) = (self.store.clone(), job.from.bucket.clone());
                apart(async move {
                    let body = landing::read::body(&store, &bucket, &object).await?;
                    Ok((chunk, object, body))
                })
            })
            .buffered(cores());
        let mut running = bodies
            .map(|fetched| {
                let (bucket, pass) = (job.from.bucket.clone(), Arc::clone(pass));
                apart(async move {
                    let (chunk, object, body) = fetched?;
                    let cleaned = blocking::run(move || {
                        let records = landing::read::messages(&bucket, &object, &body)?;
                        drop(body);
                        let done = pass.clean(chunk, object.partition, &records);
                        Ok::<_, Failure>((object, done))
                    });
                    let (object, done) = cleaned.await??;
                    match done {
                        Ok(done) => Ok((object, done)),
                        Err(PassError::Unreadable(error)) => Err(Failure::permanent(format!(
                            "`{}` cannot be read: {error}",
                            object.key
                        ))),
                        Err(PassError::Spill(error)) => Err(no_spill(&error)),
                    }
                })
            })
            .buffered(cores());
        let mut told = Instant::now();
        while let Some(done) = running.next().await {
            if context.cancel.is_cancelled() {
                return Err(Failure::retryable("stopped before everything was cleaned"));
            }
            let (object, done) = done?;
            cleaned.tally.add(done.tally);
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let done = cleaned.tally.counts.landed;
                let percent = done * 100 / manifest.records.max(1);
                context
                    .log
                    .say(format!(
                        "{done} of {} messages cleaned, {percent} %",
                        manifest.records
                    ))
                    .await;
            }
            cleaned.chunks.push(Chunk {
                partition: object.partition,
                rows: done.rows,
                bytes: done.bytes,
                held: done.held,
            });
            if done.dead.count > 0 {
                let part = self.write_dead_letters(job, &object, done.dead).await?;
                cleaned.dead_letters.push(part);
            }
        }
        Ok(cleaned)
    }

    /// Finds the rows whose key came again, one partition of the keys after the other: one list of marks per chunk.
    async fn superseded(
        &self,
        context: &Context,
        pass: &Arc<Pass>,
        chunks: &[Chunk],
    ) -> Result<Vec<Superseded>, Failure> {
        let mut marks: Vec<Superseded> = chunks
            .iter()
            .map(|chunk| Superseded::none(chunk.rows))
            .collect();
        let mut running = stream::iter(0..pass.keys.partitions())
            .map(|partition| {
                let pass = Arc::clone(pass);
                apart(async move {
                    blocking::run(move || pass.keys.superseded(partition))
                        .await?
                        .map_err(|error| no_spill(&error))
                })
            })
            .buffered(cores());
        while let Some(places) = running.next().await {
            if context.cancel.is_cancelled() {
                return Err(Failure::retryable("stopped before everything was cleaned"));
            }
            for place in places? {
                if let Some(marks) = marks.get_mut(place.chunk as usize) {
                    marks.mark(place.row as usize);
                }
            }
        }
        Ok(marks)
    }

    async fn write_dead_letters(
        &self,
        job: &Job,
        object: &LandedObject,
        dead: DeadLetters,
    ) -> Result<Part, Failure> {
        let checksum = sha256(&dead.lines);
        let key = format!(
            "{}{}-{:020}-{}.ndjson",
            job.dead_letters_prefix(),
            object.partition,
            object.first_offset,
            &checksum[..12]
        );
        let part = Part {
            key,
            rows: dead.count,
            bytes: dead.lines.len() as u64,
            sha256: checksum,
        };
        let at = Location::new(&job.to.bucket, &part.key);
        self.store
            .put(&at, Bytes::from(dead.lines), "application/x-ndjson")
            .await?;
        Ok(part)
    }

    /// Writes the rows that stay, in the order of the landing, as many parts at a time as there are cores.
    async fn write_parts(
        &self,
        context: &Context,
        job: &Arc<Job>,
        pass: &Arc<Pass>,
        chunks: Vec<(Chunk, Superseded)>,
    ) -> Result<Vec<Part>, Failure> {
        let mut parts: Vec<Part> = Vec::new();
        let groups = in_parts(chunks, job.bytes_per_part);
        let count = groups.len();
        let mut told = Instant::now();
        let mut running = stream::iter(groups)
            .map(|chunks| {
                let (store, job, pass) = (self.store.clone(), Arc::clone(job), Arc::clone(pass));
                apart(async move { write_part(&store, &job, pass, chunks).await })
            })
            .buffered(cores());
        while let Some(part) = running.next().await {
            if context.cancel.is_cancelled() {
                return Err(Failure::retryable("stopped before everything was written"));
            }
            parts.push(part?);
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let done = parts.len();
                context
                    .log
                    .say(format!("{done} of {count} parts written"))
                    .await;
            }
        }
        Ok(parts)
    }
}

async fn write_part(
    store: &ObjectStore,
    job: &Job,
    pass: Arc<Pass>,
    chunks: Vec<(Chunk, Superseded)>,
) -> Result<Part, Failure> {
    let encoded = blocking::run(move || {
        let rows: usize = chunks.iter().map(|(chunk, marks)| chunk.stay(marks)).sum();
        let mut frame = Frame::new(&pass.dataset, rows);
        for (chunk, marks) in chunks {
            let rows = chunk.held.into_rows(&pass.spill)?;
            frame.add(rows, chunk.partition, &marks)?;
        }
        let body = encode(frame.finish()?)?;
        let checksum = sha256(&body);
        Ok::<_, PassError>((rows, body, checksum))
    });
    let (rows, body, checksum) = encoded.await?.map_err(|error| match error {
        PassError::Unreadable(error) => Failure::permanent(format!(
            "the cleaned rows cannot be written as Parquet: {error}"
        )),
        PassError::Spill(error) => no_spill(&error),
    })?;
    let date = job.logical_date.format("%Y-%m-%d");
    let part = Part {
        key: format!(
            "{}dt={date}/{}-{}.parquet",
            folder(&job.to.key),
            job.partition,
            &checksum[..12]
        ),
        rows: rows as u64,
        bytes: body.len() as u64,
        sha256: checksum,
    };
    store
        .put_if_absent(&Location::new(&job.to.bucket, &part.key), Bytes::from(body))
        .await?;
    Ok(part)
}

/// Groups chunks into parts. It sees nothing but the chunks, so the same landing is always cut in the same way.
fn in_parts(
    chunks: Vec<(Chunk, Superseded)>,
    bytes_per_part: usize,
) -> Vec<Vec<(Chunk, Superseded)>> {
    let mut parts = Vec::new();
    let mut open = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    for (chunk, marks) in chunks {
        let stay = chunk.stay(&marks);
        if stay == 0 {
            continue;
        }
        rows += stay;
        bytes += chunk.bytes;
        open.push((chunk, marks));
        if rows >= ROWS_PER_PART || bytes >= bytes_per_part {
            parts.push(std::mem::take(&mut open));
            (rows, bytes) = (0, 0);
        }
    }
    if !open.is_empty() {
        parts.push(open);
    }
    parts
}

/// How many objects are worked on at the same time.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Runs work as a task of its own, so that it goes on while its answer waits for its turn. It ends when nobody waits any more.
async fn apart<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    match AbortOnDropHandle::new(tokio::spawn(work)).await {
        Ok(answer) => answer,
        Err(died) => match died.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Failure::retryable("the process is shutting down")),
        },
    }
}

fn no_spill(error: &std::io::Error) -> Failure {
    Failure::retryable(format!(
        "the temporary file of the cleaning cannot be used: {error}"
    ))
    .with_hint(format!(
        "it is made in `{}`; free space there, or name another folder in TMPDIR",
        std::env::temp_dir().display()
    ))
}

#[async_trait]
impl Kind for Clean {
    fn name(&self) -> &'static str {
        "clean"
    }

    fn summary(&self) -> &'static str {
        "Cleans landed messages by a dataset file: Parquet, one row per key, and a dead-letter set for the rest."
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn outputs(&self) -> Outputs {
        OUTPUTS
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let written = |key: &str| {
            with.get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.contains("{{"))
        };
        if let Some(id) = written("dataset").filter(|id| self.catalog.get(id).is_none()) {
            problems.push(Problem {
                field: Some("dataset".to_owned()),
                message: format!("unknown dataset `{id}`"),
                hint: Some(known_datasets(&self.catalog)),
            });
        }
        for key in ["from", "to"] {
            if let Some(Err(error)) = written(key).map(str::parse::<Location>) {
                problems.push(Problem {
                    field: Some(key.to_owned()),
                    message: error.to_string(),
                    hint: Some(error.hint().to_owned()),
                });
            }
        }
        if let Some(name) = written("partition").filter(|name| !is_partition_name(name)) {
            problems.push(Problem {
                field: Some("partition".to_owned()),
                message: bad_partition(name),
                hint: None,
            });
        }
        if let Some(number) = with.get("memory_mb").filter(|value| value.is_number())
            && !is_memory(number)
        {
            problems.push(Problem {
                field: Some("memory_mb".to_owned()),
                message: bad_memory(number),
                hint: None,
            });
        }
        problems
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        let text = |key: &str| with.get(key).and_then(Value::as_str);
        let required = |key: &str| {
            text(key).ok_or_else(|| Failure::permanent(format!("`{key}` must be a string")))
        };
        let dataset = self.dataset(required("dataset")?)?;
        let from: Location = required("from")?.parse()?;
        let to: Location = required("to")?.parse()?;
        let manifest = landing::read::manifest(&self.store, &from).await?;
        let partition = match text("partition") {
            Some(name) if is_partition_name(name) => name.to_owned(),
            Some(name) => return Err(Failure::permanent(bad_partition(name))),
            None => default_partition(&manifest),
        };
        let memory_mb = match with.get("memory_mb") {
            None => DEFAULT_MEMORY_MB,
            Some(number) if is_memory(number) => number.as_u64().unwrap_or(DEFAULT_MEMORY_MB),
            Some(number) => return Err(Failure::permanent(bad_memory(number))),
        };
        let memory = usize::try_from(memory_mb << 20).unwrap_or(usize::MAX);
        let job = Arc::new(Job {
            dataset,
            from,
            to,
            partition,
            logical_date: manifest.logical_date,
            bytes_per_part: memory / 8,
        });
        context
            .log
            .say(format!(
                "cleaning {} messages of topic `{}` as `{}`",
                manifest.records,
                manifest.topic,
                job.dataset.id()
            ))
            .await;

        let pass = Arc::new(Pass::new(
            Arc::clone(&job.dataset),
            manifest.records,
            memory / 2,
        ));
        let Cleaned {
            tally:
                Tally {
                    mut counts,
                    rejections,
                    fired,
                    new_fields,
                },
            chunks,
            dead_letters,
        } = self.clean_all(context, &job, &manifest, &pass).await?;
        pass.spare.clear();
        let marks = self.superseded(context, &pass, &chunks).await?;
        let chunks: Vec<(Chunk, Superseded)> = chunks.into_iter().zip(marks).collect();
        for (chunk, marks) in &chunks {
            counts.cleaned += chunk.stay(marks) as u64;
            counts.duplicates += marks.count() as u64;
        }
        let dead_letters_at = (counts.rejected() > 0)
            .then(|| Location::new(&job.to.bucket, job.dead_letters_prefix()).to_string());
        for (rule, count) in &rejections {
            context.log.say(format!("rejected {count}: {rule}")).await;
        }
        for (rule, count) in &fired {
            context.log.say(format!("changed {count}: {rule}")).await;
        }
        for (name, count) in &new_fields {
            context
                .log
                .say(format!(
                    "the contract does not know field `{name}`: {count} kept in `extra`"
                ))
                .await;
        }
        if !counts.add_up() || counts.landed != manifest.records {
            return Err(Failure::permanent(format!(
                "{} messages were read where the landing manifest says {}: {counts:?}",
                counts.landed, manifest.records
            ))
            .with_hint("the landed objects do not match their manifest; land the range again"));
        }
        check_expectations(&job, &rejections, dead_letters_at.as_deref())?;
        check_tolerance(&job, counts, &rejections, dead_letters_at.as_deref())?;

        let parts = self.write_parts(context, &job, &pass, chunks).await?;
        let spilled = pass.spill.bytes();
        if spilled > 0 {
            context
                .log
                .say(format!("{spilled} bytes waited in a temporary file"))
                .await;
        }
        let mut rules = rejections;
        rules.extend(fired);
        let partition = Partition {
            version: 1,
            dataset: job.dataset.id().to_owned(),
            contract_sha256: job.dataset.sha256().to_owned(),
            key: job.dataset.columns()[job.dataset.key()].name.clone(),
            columns: job
                .dataset
                .columns()
                .iter()
                .map(|column| StoredColumn {
                    name: column.name.clone(),
                    column_type: column.column_type,
                })
                .collect(),
            partition: job.partition.clone(),
            logical_date: job.logical_date,
            run_after: (job.logical_date == context.instance.logical_date)
                .then(|| context.instance.run_after()),
            landing: job.from.to_string(),
            ranges: manifest.ranges,
            parts,
            dead_letters,
            counts,
            rules,
            new_fields,
        };
        let manifest_at = Location::new(
            &job.to.bucket,
            format!("{}_manifests/{}.json", folder(&job.to.key), job.partition),
        );
        self.store
            .put(
                &manifest_at,
                Bytes::from(partition.to_json()),
                "application/json",
            )
            .await?;
        context
            .log
            .say(format!(
                "{} landed = {} cleaned + {} duplicates + {} dead-lettered + {} quarantined",
                counts.landed,
                counts.cleaned,
                counts.duplicates,
                counts.dead_lettered,
                counts.quarantined
            ))
            .await;
        Ok(Outcome::Success {
            output: json!({
                "manifest": manifest_at.to_string(),
                "partition": job.partition,
                "landed": counts.landed,
                "cleaned": counts.cleaned,
                "dead_lettered": counts.dead_lettered,
                "quarantined": counts.quarantined,
                "duplicates": counts.duplicates,
                "rules": partition.rules,
                "new_fields": partition.new_fields,
                "dead_letters": dead_letters_at,
            }),
        })
    }
}

/// What one try has to do.
struct Job {
    dataset: Arc<Dataset>,
    from: Location,
    to: Location,
    partition: String,
    logical_date: chrono::DateTime<chrono::Utc>,
    bytes_per_part: usize,
}

impl Job {
    fn dead_letters_prefix(&self) -> String {
        format!("{}_dead_letters/{}/", folder(&self.to.key), self.partition)
    }
}

/// What has been cleaned so far.
#[derive(Default)]
struct Cleaned {
    tally: Tally,
    chunks: Vec<Chunk>,
    dead_letters: Vec<Part>,
}

/// The rows of one landed object.
struct Chunk {
    /// The Kafka partition.
    partition: i32,
    rows: usize,
    bytes: usize,
    held: Held,
}

impl Chunk {
    fn stay(&self, superseded: &Superseded) -> usize {
        self.rows - superseded.count()
    }
}

/// An expectation of severity `fail` that did not hold for a row breaks the batch.
fn check_expectations(
    job: &Job,
    rejections: &BTreeMap<String, u64>,
    dead_letters: Option<&str>,
) -> Result<(), Failure> {
    let broken: Vec<String> = rejections
        .iter()
        .filter(|(rule, _)| job.dataset.fails_batch(rule))
        .map(|(rule, count)| format!("`{rule}` ({count})"))
        .collect();
    if broken.is_empty() {
        return Ok(());
    }
    Err(Failure::permanent(format!(
        "rows of `{}` break what must hold for every row: {}",
        job.dataset.id(),
        broken.join(", ")
    ))
    .with_hint(format!(
        "look at the dead letters below `{}`, then correct the producer or the dataset file",
        dead_letters.unwrap_or("?")
    )))
}

fn check_tolerance(
    job: &Job,
    counts: Counts,
    rejections: &BTreeMap<String, u64>,
    dead_letters: Option<&str>,
) -> Result<(), Failure> {
    let tolerance = job.dataset.tolerance();
    if !tolerance.is_exceeded(counts.rejected(), counts.landed) {
        return Ok(());
    }
    let (rule, count) = rejections
        .iter()
        .max_by_key(|(_, count)| **count)
        .map_or(("", 0), |(rule, count)| (rule.as_str(), *count));
    let percent = tolerance.max_share * 100.0;
    Err(Failure::permanent(format!(
        "{} of {} messages were rejected, `{}` tolerates {percent} %; the most frequent rule is `{rule}` ({count})",
        counts.rejected(),
        counts.landed,
        job.dataset.id(),
    ))
    .with_hint(format!("look at the dead letters below `{}`, then correct the producer or the dataset file", dead_letters.unwrap_or("?"))))
}

/// One thread per part: several parts are written at the same time, and the same rows are the same bytes.
fn encode(mut rows: DataFrame) -> PolarsResult<Vec<u8>> {
    let mut body = Vec::new();
    ParquetWriter::new(&mut body)
        .with_compression(ParquetCompression::Zstd(Some(ZstdLevel::try_new(
            ZSTD_LEVEL,
        )?)))
        .with_statistics(StatisticsOptions::full())
        .set_parallel(false)
        .finish(&mut rows)?;
    Ok(body)
}

/// The landing decides the name: whoever cleans it again, whenever, writes the same partition.
fn default_partition(manifest: &Manifest) -> String {
    let plan = manifest.plan_id.get(..12).unwrap_or(&manifest.plan_id);
    format!("{}-{plan}", manifest.logical_date.format("%Y%m%dT%H%M%SZ"))
}

fn is_partition_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn is_memory(number: &Value) -> bool {
    number
        .as_u64()
        .is_some_and(|number| (LEAST_MEMORY_MB..=MOST_MEMORY_MB).contains(&number))
}

fn bad_memory(number: &Value) -> String {
    format!("`memory_mb` must be from {LEAST_MEMORY_MB} to {MOST_MEMORY_MB}, found {number}")
}

fn bad_partition(name: &str) -> String {
    format!(
        "`{}` is no partition name: expected letters, digits, `-` and `_`, at most 40",
        name.escape_debug()
    )
}

fn known_datasets(catalog: &Catalog) -> String {
    let ids: Vec<&str> = catalog.ids().collect();
    if ids.is_empty() {
        "there are no dataset files in `datasets/` of the DAG folder".to_owned()
    } else {
        format!("the datasets are {}", ids.join(", "))
    }
}
