//! The manifest of one cleaned partition: what `clean` writes last and readers read first.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{dataset::ColumnType, landing::LandedRange};

/// One partition of a cleaned dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Version of this format.
    pub version: u32,
    /// The dataset's id.
    pub dataset: String,
    /// SHA-256 of the dataset file that cleaned it.
    pub contract_sha256: String,
    /// The key column.
    pub key: String,
    /// The dataset's columns; parts have `_partition`, `_offset` and `_timestamp` after them.
    pub columns: Vec<StoredColumn>,
    /// The partition's name. Cleaning the same landing again replaces the partition of that name.
    pub partition: String,
    /// The logical date of the landing.
    pub logical_date: DateTime<Utc>,
    /// The moment from which the run that landed it could run; unknown where another run has cleaned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_after: Option<DateTime<Utc>>,
    /// The landing's manifest.
    pub landing: String,
    /// The offsets that were landed.
    pub ranges: Vec<LandedRange>,
    /// The Parquet objects.
    pub parts: Vec<Part>,
    /// The dead-letter objects: one JSON object a line.
    pub dead_letters: Vec<Part>,
    /// What became of the landed messages.
    pub counts: Counts,
    /// How often each rule fired.
    pub rules: BTreeMap<String, u64>,
    /// The fields that the contract does not know, and in how many messages each was.
    #[serde(default)]
    pub new_fields: BTreeMap<String, u64>,
}

/// A column as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredColumn {
    /// The name.
    pub name: String,
    /// The type.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
}

/// One object of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The key in the bucket of the manifest.
    pub key: String,
    /// Rows, or dead letters.
    pub rows: u64,
    /// The object's size.
    pub bytes: u64,
    /// The checksum of its bytes.
    pub sha256: String,
}

/// What became of the landed messages: `landed = cleaned + dead_lettered + quarantined + duplicates`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Messages that were read.
    pub landed: u64,
    /// Rows that were written.
    pub cleaned: u64,
    /// Messages that could not be read or had the wrong shape.
    pub dead_lettered: u64,
    /// Rows that broke the contract.
    pub quarantined: u64,
    /// Rows whose key came again later in the batch.
    pub duplicates: u64,
}

impl Counts {
    /// Messages that are in the dead-letter set.
    pub fn rejected(self) -> u64 {
        self.dead_lettered + self.quarantined
    }

    /// Whether every landed message is accounted for.
    pub fn add_up(self) -> bool {
        self.landed == self.cleaned + self.dead_lettered + self.quarantined + self.duplicates
    }
}

impl Partition {
    /// The manifest as it is stored.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self)
            .expect("a manifest has text keys and whole numbers only");
        text.push(b'\n');
        text
    }

    /// Reads a stored manifest.
    ///
    /// # Errors
    /// The text is no manifest, or one of a later version.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if manifest.version == 1 {
            Ok(manifest)
        } else {
            Err(format!(
                "expected version 1, found version {}",
                manifest.version
            ))
        }
    }

    /// Sorts partitions by the order in which their messages were landed.
    pub fn landing_order(&self) -> (i64, DateTime<Utc>, String) {
        (
            super::position(&self.ranges),
            self.logical_date,
            self.partition.clone(),
        )
    }
}
