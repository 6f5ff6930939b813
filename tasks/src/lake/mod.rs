//! The cleaned datasets of an object store: which partitions a dataset has, and how it is read.
//!
//! A dataset lives below one prefix. Every `clean` task writes one partition: Parquet parts, dead letters, and last a manifest below
//! `_manifests/`. Readers read manifests and the parts they name, never listings of data, so a half-written partition does not
//! exist for them. A key that several partitions hold is one row: the one that was landed last.

pub mod gc;
mod horizon;
mod manifest;
pub(crate) mod named;

use polars::prelude::*;

pub use horizon::Horizon;
pub use manifest::{Counts, Part, Partition, StoredColumn};

use crate::{
    Failure, blocking,
    dataset::ColumnType,
    landing::LandedRange,
    s3::{Location, ObjectStore, sha256},
};

/// The Kafka partition a row came from.
pub const PARTITION: &str = "_partition";
/// The row's offset in that partition.
pub const OFFSET: &str = "_offset";
/// When the broker says the message was written; UTC.
pub const TIMESTAMP: &str = "_timestamp";

/// The datasets below one prefix, each in a folder of its own name (setting `lake.clean_prefix`).
#[derive(Clone)]
pub struct Lake {
    store: ObjectStore,
    root: Location,
}

impl Lake {
    /// The datasets below `root`, such as `s3://lake/clean`.
    pub fn new(store: ObjectStore, root: Location) -> Self {
        Self { store, root }
    }

    /// Where a dataset lives.
    pub fn location(&self, dataset: &str) -> Location {
        Location::new(
            &self.root.bucket,
            format!("{}{dataset}/", folder(&self.root.key)),
        )
    }

    /// The names of all datasets that have a partition, sorted.
    ///
    /// # Errors
    /// The store does not answer, or the bucket does not exist.
    pub async fn datasets(&self) -> Result<Vec<String>, Failure> {
        let root = folder(&self.root.key);
        let keys = self
            .store
            .list(&Location::new(&self.root.bucket, &root))
            .await?;
        let mut names: Vec<String> = keys
            .iter()
            .filter_map(|key| key.strip_prefix(&root)?.split_once("/_manifests/"))
            .map(|(name, _)| name)
            .filter(|name| !name.contains('/'))
            .map(str::to_owned)
            .collect();
        names.dedup();
        Ok(names)
    }

    /// All rows of a dataset, one per key.
    ///
    /// # Errors
    /// See [`scan`].
    pub async fn scan(&self, dataset: &str) -> Result<LazyFrame, Failure> {
        scan(&self.store, &self.location(dataset)).await
    }
}

/// The manifests below a dataset's prefix, in the order in which their messages were landed.
///
/// # Errors
/// The store does not answer, or a manifest is none.
pub async fn partitions(store: &ObjectStore, at: &Location) -> Result<Vec<Partition>, Failure> {
    let prefix = Location::new(&at.bucket, format!("{}_manifests/", folder(&at.key)));
    let mut partitions = Vec::new();
    for key in store.list(&prefix).await? {
        let manifest_at = Location::new(&at.bucket, key);
        let text = store.get(&manifest_at).await?;
        let partition = Partition::from_json(&text).map_err(|error| {
            Failure::permanent(format!(
                "`{manifest_at}` is no manifest of a cleaned partition: {error}"
            ))
            .with_hint("only `clean` tasks may write below a dataset's prefix")
        })?;
        partitions.push(partition);
    }
    partitions.sort_by_cached_key(Partition::landing_order);
    Ok(partitions)
}

/// All rows of the dataset below `at`, one per key: the one that was landed last. Columns are those of the newest partition; what an
/// older partition does not have is null.
///
/// # Errors
/// There is no partition, a part is missing or was changed, or two partitions give a column different types.
pub async fn scan(store: &ObjectStore, at: &Location) -> Result<LazyFrame, Failure> {
    scan_up_to(store, at, Horizon::Everything).await
}

/// As [`scan`], over the partitions that lie within `horizon` alone: for a key that is in several of them the last of these counts.
///
/// # Errors
/// See [`scan`].
pub async fn scan_up_to(
    store: &ObjectStore,
    at: &Location,
    horizon: Horizon,
) -> Result<LazyFrame, Failure> {
    let mut partitions = partitions(store, at).await?;
    let all = partitions.len();
    partitions.retain(|partition| horizon.holds(partition.logical_date, partition.run_after));
    let Some(newest) = partitions.last().cloned() else {
        let hint = if all == 0 {
            "run the DAG whose `clean` task writes it, or check the address"
        } else {
            "there is some, of landings with later logical dates: a run sees what was landed up to the end of its data interval"
        };
        return Err(
            Failure::permanent(format!("there is no cleaned data below `{at}`")).with_hint(hint),
        );
    };
    let mut parts = Vec::new();
    for partition in &partitions {
        for part in &partition.parts {
            let part_at = Location::new(&at.bucket, &part.key);
            let body = store.get(&part_at).await?;
            let (expected, columns) = (part.sha256.clone(), newest.columns.clone());
            let frame = blocking::run(move || {
                let found = sha256(&body);
                if found != expected {
                    return Err(format!("was changed after it was written: its SHA-256 is {found}, the manifest says {expected}"));
                }
                let frame = ParquetReader::new(std::io::Cursor::new(body)).finish().map_err(|error| error.to_string())?;
                align(&frame, &columns)
            })
            .await?
            .map_err(|error| Failure::permanent(format!("`{part_at}` {error}")))?;
            parts.push(frame);
        }
    }
    let one_partition = partitions.len() == 1;
    let whole = blocking::run(move || join(parts, &newest, one_partition)).await?;
    let whole = whole.map_err(|error| {
        Failure::permanent(format!(
            "the partitions below `{at}` do not fit together: {error}"
        ))
    })?;
    Ok(whole.lazy())
}

/// Appends parts in landing order and keeps the last row of each key.
fn join(parts: Vec<DataFrame>, newest: &Partition, one_partition: bool) -> PolarsResult<DataFrame> {
    let mut whole = empty(&newest.columns);
    for part in parts {
        whole.vstack_mut_owned(part)?;
    }
    if one_partition {
        return Ok(whole);
    }
    whole.unique_stable(
        Some(std::slice::from_ref(&newest.key)),
        UniqueKeepStrategy::Last,
        None,
    )
}

/// A frame without rows that has the columns of a cleaned dataset.
fn empty(columns: &[StoredColumn]) -> DataFrame {
    let fields = stored_types(columns).map(|(name, data_type)| Field::new(name, data_type));
    DataFrame::empty_with_schema(&Schema::from_iter(fields))
}

fn align(frame: &DataFrame, columns: &[StoredColumn]) -> Result<DataFrame, String> {
    let mut aligned = Vec::with_capacity(columns.len() + 3);
    for (name, data_type) in stored_types(columns) {
        match frame.column(&name) {
            Ok(column) if *column.dtype() == data_type => aligned.push(column.clone()),
            Ok(column) => {
                let found = column.dtype();
                return Err(format!(
                    "has column `{name}` as {found}, the newest partition has it as {data_type}"
                ));
            }
            Err(_) => aligned.push(Column::full_null(name, frame.height(), &data_type)),
        }
    }
    DataFrame::new(frame.height(), aligned).map_err(|error| error.to_string())
}

fn stored_types(columns: &[StoredColumn]) -> impl Iterator<Item = (PlSmallStr, DataType)> + '_ {
    let own = columns.iter().map(|column| {
        (
            PlSmallStr::from(column.name.as_str()),
            data_type(column.column_type),
        )
    });
    let provenance = [
        (PlSmallStr::from(PARTITION), DataType::Int32),
        (PlSmallStr::from(OFFSET), DataType::Int64),
        (
            PlSmallStr::from(TIMESTAMP),
            DataType::Datetime(TimeUnit::Milliseconds, None),
        ),
    ];
    own.chain(provenance)
}

/// The Polars type of a column.
pub fn data_type(column_type: ColumnType) -> DataType {
    match column_type {
        ColumnType::Text | ColumnType::Json => DataType::String,
        ColumnType::Integer => DataType::Int64,
        ColumnType::Float => DataType::Float64,
        ColumnType::Boolean => DataType::Boolean,
        // Without a zone, as `_timestamp` is: every moment of a dataset is UTC.
        ColumnType::Timestamp => DataType::Datetime(TimeUnit::Microseconds, None),
        ColumnType::TextList => DataType::List(Box::new(DataType::String)),
    }
}

/// A prefix with exactly one slash at its end, or nothing at all.
pub(crate) fn folder(prefix: &str) -> String {
    let prefix = prefix.trim_matches('/');
    if prefix.is_empty() {
        String::new()
    } else {
        format!("{prefix}/")
    }
}

/// Where a landing begins on the time line of its topic. Cursors only move forward, so the sum of the first offsets grows from one
/// landing to the next, whatever their logical dates are (a catch-up run lands late what it names early).
fn position(ranges: &[LandedRange]) -> i64 {
    ranges
        .iter()
        .fold(0, |sum: i64, range| sum.saturating_add(range.start))
}
