//! The kind `clean`: from landed messages to one partition of a dataset.
//!
//! Every message of the landing is cleaned by the dataset file ([`crate::dataset`]). Rows become Parquet, the latest of each key;
//! everything else goes to the dead-letter set with its rule, offset and raw bytes. Objects are named by their content and the
//! manifest is written last, so a rerun replaces exactly its partition and a crash leaves nothing that a reader could see.
//! This kind never drops a message without counting it.

mod batch;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use polars::{polars_utils::compression::ZstdLevel, prelude::*};
use serde_json::{Map, Value, json};

use self::batch::{Batch, Origin};
use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem, blocking,
    dataset::{Catalog, Dataset, Fired, Rejected, Stage},
    lake::{Counts, Part, Partition, StoredColumn, folder},
    landing::{self, LandedObject, Manifest},
    s3::{Location, ObjectStore, sha256},
};

/// A part holds at most so many rows.
const ROWS_PER_PART: usize = 1_000_000;
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

    /// Reads and cleans one landed object after the other.
    async fn clean_all(
        &self,
        context: &Context,
        job: &Job,
        manifest: &Manifest,
    ) -> Result<Cleaned, Failure> {
        let mut cleaned = Cleaned::new(&job.dataset, manifest.records);
        for object in &manifest.objects {
            if context.cancel.is_cancelled() {
                return Err(Failure::retryable("stopped before everything was cleaned"));
            }
            let records = landing::read::object(&self.store, &job.from.bucket, object).await?;
            let (dataset, partition) = (Arc::clone(&job.dataset), object.partition);
            let (state, dead) = blocking::run(move || {
                let dead = cleaned.add(&dataset, partition, &records);
                (cleaned, dead)
            })
            .await?;
            cleaned = state;
            let dead = dead.map_err(|error| {
                Failure::permanent(format!("`{}` cannot be read: {error}", object.key))
            })?;
            if dead.count > 0 {
                let part = self.write_dead_letters(job, object, dead).await?;
                cleaned.dead_letters.push(part);
            }
        }
        Ok(cleaned)
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

    async fn write_parts(&self, job: &Job, rows: DataFrame) -> Result<Vec<Part>, Failure> {
        let mut parts = Vec::new();
        for start in (0..rows.height()).step_by(ROWS_PER_PART) {
            let slice = rows.slice(start as i64, ROWS_PER_PART);
            let count = slice.height() as u64;
            let body = blocking::run(move || encode(slice))
                .await?
                .map_err(|error| {
                    Failure::permanent(format!(
                        "the cleaned rows cannot be written as Parquet: {error}"
                    ))
                })?;
            let checksum = sha256(&body);
            let date = job.logical_date.format("%Y-%m-%d");
            let key = format!(
                "{}dt={date}/{}-{}.parquet",
                folder(&job.to.key),
                job.partition,
                &checksum[..12]
            );
            let part = Part {
                key,
                rows: count,
                bytes: body.len() as u64,
                sha256: checksum,
            };
            self.store
                .put_if_absent(&Location::new(&job.to.bucket, &part.key), Bytes::from(body))
                .await?;
            parts.push(part);
        }
        Ok(parts)
    }
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
        let job = Job {
            dataset,
            from,
            to,
            partition,
            logical_date: manifest.logical_date,
        };
        context
            .log
            .say(format!(
                "cleaning {} messages of topic `{}` as `{}`",
                manifest.records,
                manifest.topic,
                job.dataset.id()
            ))
            .await;

        let cleaned = self.clean_all(context, &job, &manifest).await?;
        let Cleaned {
            batch,
            mut counts,
            rejections,
            fired,
            dead_letters,
        } = cleaned;
        counts.duplicates = batch.duplicates();
        let rows = blocking::run(move || batch.finish())
            .await?
            .map_err(|error| {
                Failure::permanent(format!("the cleaned rows do not form a table: {error}"))
            })?;
        counts.cleaned = rows.height() as u64;
        let dead_letters_at = (counts.rejected() > 0)
            .then(|| Location::new(&job.to.bucket, job.dead_letters_prefix()).to_string());
        for (rule, count) in &rejections {
            context.log.say(format!("rejected {count}: {rule}")).await;
        }
        for (rule, count) in &fired {
            context.log.say(format!("changed {count}: {rule}")).await;
        }
        if !counts.add_up() || counts.landed != manifest.records {
            return Err(Failure::permanent(format!(
                "{} messages were read where the landing manifest says {}: {counts:?}",
                counts.landed, manifest.records
            ))
            .with_hint("the landed objects do not match their manifest; land the range again"));
        }
        check_tolerance(&job, counts, &rejections, dead_letters_at.as_deref())?;

        let parts = self.write_parts(&job, rows).await?;
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
}

impl Job {
    fn dead_letters_prefix(&self) -> String {
        format!("{}_dead_letters/{}/", folder(&self.to.key), self.partition)
    }
}

/// What has been cleaned so far.
struct Cleaned {
    batch: Batch,
    counts: Counts,
    rejections: BTreeMap<String, u64>,
    fired: BTreeMap<String, u64>,
    dead_letters: Vec<Part>,
}

/// The rejected messages of one landed object, one JSON object a line.
#[derive(Default)]
struct DeadLetters {
    lines: Vec<u8>,
    count: u64,
}

impl Cleaned {
    fn new(dataset: &Dataset, records: u64) -> Self {
        // The manifest is only a hint for the capacity: what it says is not trusted with memory.
        let expected = usize::try_from(records)
            .unwrap_or(usize::MAX)
            .min(ROWS_PER_PART);
        Self {
            batch: Batch::new(dataset, expected),
            counts: Counts::default(),
            rejections: BTreeMap::new(),
            fired: BTreeMap::new(),
            dead_letters: Vec::new(),
        }
    }

    fn add(
        &mut self,
        dataset: &Dataset,
        partition: i32,
        records: &DataFrame,
    ) -> PolarsResult<DeadLetters> {
        let offsets = records.column(landing::columns::OFFSET)?.i64()?;
        let timestamps = records.column(landing::columns::TIMESTAMP)?.i64()?;
        let keys = records.column(landing::columns::KEY)?.binary()?;
        let values = records.column(landing::columns::VALUE)?.binary()?;
        let mut dead = DeadLetters::default();
        let mut fired: BTreeMap<Fired, u64> = BTreeMap::new();
        for (((offset, timestamp), key), value) in offsets
            .iter()
            .zip(timestamps.iter())
            .zip(keys.iter())
            .zip(values.iter())
        {
            let offset =
                offset.ok_or_else(|| polars_err!(ComputeError: "a record has no offset"))?;
            let origin = Origin {
                partition,
                offset,
                timestamp,
            };
            self.counts.landed += 1;
            match dataset.clean(value) {
                Ok(row) => {
                    for rule in &row.fired {
                        *fired.entry(*rule).or_default() += 1;
                    }
                    self.batch.push(row, origin);
                }
                Err(rejected) => {
                    match rejected.stage {
                        Stage::Unreadable => self.counts.dead_lettered += 1,
                        Stage::Contract => self.counts.quarantined += 1,
                    }
                    dead.push(&rejected, origin, key, value);
                    *self.rejections.entry(rejected.rule).or_default() += 1;
                }
            }
        }
        for (rule, count) in fired {
            *self.fired.entry(dataset.rule_name(rule)).or_default() += count;
        }
        Ok(dead)
    }
}

impl DeadLetters {
    fn push(
        &mut self,
        rejected: &Rejected,
        origin: Origin,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) {
        let letter = json!({
            "partition": origin.partition,
            "offset": origin.offset,
            "timestamp": origin.timestamp,
            "stage": rejected.stage.word(),
            "rule": rejected.rule,
            "field": rejected.field,
            "detail": rejected.detail,
            "key": key.map(|key| BASE64.encode(key)),
            "raw": value.map(|value| BASE64.encode(value)),
        });
        self.lines.extend_from_slice(letter.to_string().as_bytes());
        self.lines.push(b'\n');
        self.count += 1;
    }
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

fn encode(mut rows: DataFrame) -> PolarsResult<Vec<u8>> {
    let mut body = Vec::new();
    ParquetWriter::new(&mut body)
        .with_compression(ParquetCompression::Zstd(Some(ZstdLevel::try_new(
            ZSTD_LEVEL,
        )?)))
        .with_statistics(StatisticsOptions::full())
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
