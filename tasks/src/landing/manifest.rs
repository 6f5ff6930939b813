//! The manifest: the one object that says what a landing holds. Readers read manifests, never listings.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What one landing holds. Written once, after every object it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this format: 1.
    pub version: u32,
    /// The Kafka topic.
    pub topic: String,
    /// The plan that was carried out.
    pub plan_id: String,
    /// The logical date of the run.
    pub logical_date: DateTime<Utc>,
    /// Every partition of the topic, sorted, empty ranges too.
    pub ranges: Vec<LandedRange>,
    /// The objects by partition and offset.
    pub objects: Vec<LandedObject>,
    /// Records in all objects.
    pub records: u64,
    /// Bytes of all objects as they are stored.
    pub bytes: u64,
}

/// What was landed of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandedRange {
    /// The partition.
    pub partition: i32,
    /// The first offset, inclusive.
    pub start: i64,
    /// The last offset, exclusive.
    pub end: i64,
    /// Records between them; fewer than `end - start` where the log has gaps (transactions, compaction).
    pub records: u64,
}

/// One object of a landing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandedObject {
    /// Its key in the manifest's bucket.
    pub key: String,
    /// The partition.
    pub partition: i32,
    /// The offset of its first record.
    pub first_offset: i64,
    /// The offset of its last record.
    pub last_offset: i64,
    /// Its records.
    pub records: u64,
    /// Its size.
    pub bytes: u64,
    /// The checksum of its bytes, in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Puts a manifest together; objects come in any order.
    pub fn new(
        topic: &str,
        plan_id: &str,
        logical_date: DateTime<Utc>,
        mut ranges: Vec<LandedRange>,
        mut objects: Vec<LandedObject>,
    ) -> Self {
        ranges.sort_by_key(|range| range.partition);
        objects.sort_by_key(|object| (object.partition, object.first_offset));
        Self {
            version: 1,
            topic: topic.to_owned(),
            plan_id: plan_id.to_owned(),
            logical_date,
            records: objects.iter().map(|object| object.records).sum(),
            bytes: objects.iter().map(|object| object.bytes).sum(),
            ranges,
            objects,
        }
    }

    /// The manifest as it is stored: the same text for the same content.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self)
            .expect("a manifest has text keys and finite numbers only");
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
}

/// The key of an object that holds the records `first..=last` of a partition.
pub fn object_key(
    prefix: &str,
    date: DateTime<Utc>,
    topic: &str,
    partition: i32,
    first: i64,
    last: i64,
) -> String {
    format!(
        "{}dt={}/{topic}+{partition}+{first:020}-{last:020}.parquet",
        folder(prefix),
        date.format("%Y-%m-%d")
    )
}

/// The key of a plan's manifest.
pub fn manifest_key(prefix: &str, date: DateTime<Utc>, plan_id: &str) -> String {
    let short = plan_id.get(..12).unwrap_or(plan_id);
    format!(
        "{}{}-{short}.json",
        manifest_prefix(prefix),
        date.format("%Y%m%dT%H%M%SZ")
    )
}

/// What the keys of all manifests below a prefix begin with.
pub fn manifest_prefix(prefix: &str) -> String {
    format!("{}_manifests/", folder(prefix))
}

/// A prefix with exactly one slash at its end, or nothing at all.
fn folder(prefix: &str) -> String {
    let prefix = prefix.trim_matches('/');
    if prefix.is_empty() {
        String::new()
    } else {
        format!("{prefix}/")
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn date() -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 3, 29, 1, 30, 0)
            .single()
            .expect("a date that exists")
    }

    #[test]
    fn keys_sort_by_offset_and_stay_short() {
        let key = object_key("raw/pins/", date(), "pins", 3, 7, 1_234);
        assert_eq!(
            key,
            "raw/pins/dt=2026-03-29/pins+3+00000000000000000007-00000000000000001234.parquet"
        );
        assert!(key.len() < 125, "the embedded store refuses longer ones");
        assert!(
            object_key("raw", date(), "pins", 3, 9, 9)
                < object_key("raw", date(), "pins", 3, 10, 10)
        );
        assert_eq!(
            manifest_key("raw/pins", date(), "0123456789abcdef"),
            "raw/pins/_manifests/20260329T013000Z-0123456789ab.json"
        );
        assert!(object_key("", date(), "pins", 0, 0, 0).starts_with("dt="));
    }

    #[test]
    fn a_manifest_is_the_same_text_whatever_order_its_parts_came_in() {
        let object = |partition, first_offset| LandedObject {
            key: object_key(
                "raw",
                date(),
                "pins",
                partition,
                first_offset,
                first_offset + 1,
            ),
            partition,
            first_offset,
            last_offset: first_offset + 1,
            records: 2,
            bytes: 10,
            sha256: "00".to_owned(),
        };
        let range = |partition| LandedRange {
            partition,
            start: 0,
            end: 4,
            records: 4,
        };
        let objects = vec![object(0, 0), object(0, 2), object(1, 0), object(1, 2)];
        let one = Manifest::new(
            "pins",
            "plan",
            date(),
            vec![range(0), range(1)],
            objects.clone(),
        );
        let mut reversed = objects;
        reversed.reverse();
        let other = Manifest::new("pins", "plan", date(), vec![range(1), range(0)], reversed);
        assert_eq!(one.to_json(), other.to_json());
        assert_eq!((one.records, one.bytes), (8, 40));
        assert_eq!(Manifest::from_json(&one.to_json()), Ok(one));
    }

    #[test]
    fn a_manifest_of_a_later_version_is_refused() {
        let mut manifest = Manifest::new("pins", "plan", date(), Vec::new(), Vec::new());
        manifest.version = 2;
        assert_eq!(
            Manifest::from_json(&manifest.to_json()),
            Err("expected version 1, found version 2".to_owned())
        );
    }
}
