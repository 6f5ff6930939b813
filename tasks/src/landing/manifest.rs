//! The manifest: the one object that says what a landing holds. Readers read manifests, never listings.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Plan;

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
    /// The last record of every partition of which one was ever landed: the next landing looks whether it is still
    /// there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tails: Vec<Tail>,
}

/// The last record that was landed of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    /// The partition.
    pub partition: i32,
    /// The record's offset.
    pub offset: i64,
    /// Its fingerprint ([`super::columns::Record::fingerprint`]).
    pub sha256: String,
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
            tails: Vec::new(),
        }
    }

    /// Notes the last record of every partition.
    #[must_use]
    pub fn with_tails(mut self, mut tails: Vec<Tail>) -> Self {
        tails.sort_by_key(|tail| tail.partition);
        self.tails = tails;
        self
    }

    /// Whether this is a landing of that plan. A second try may have begun later where retention deleted records, so
    /// only what was planned is compared.
    pub fn carries_out(&self, plan: &Plan) -> bool {
        let planned = plan.ranges.iter().map(|range| (range.partition, range.end));
        self.plan_id == plan.plan_id
            && self.topic == plan.topic
            && planned.eq(self.ranges.iter().map(|range| (range.partition, range.end)))
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

/// Another name for an object whose own name is taken by what must not be used; `again` counts from 1.
pub fn other_object_key(key: &str, again: u32) -> String {
    let stem = key.strip_suffix(".parquet").unwrap_or(key);
    format!("{stem}~{again}.parquet")
}

/// A new plan's id: a name that no other plan has, and the logical date, so that the id alone tells where the plan's
/// manifest is.
pub fn new_plan_id(date: DateTime<Utc>) -> String {
    format!("{}-{}", uuid::Uuid::new_v4().simple(), stamp(date))
}

/// The key of a plan's manifest.
pub fn manifest_key(prefix: &str, date: DateTime<Utc>, plan_id: &str) -> String {
    let short = plan_id.get(..12).unwrap_or(plan_id);
    format!("{}{}-{short}.json", manifest_prefix(prefix), stamp(date))
}

/// The key of the manifest of a plan of which nothing but the id is known; `None` for an id that [`new_plan_id`] did
/// not make.
pub fn manifest_key_of(prefix: &str, plan_id: &str) -> Option<String> {
    let (name, stamp) = plan_id.split_once('-')?;
    let short = name.get(..12)?;
    Some(format!("{}{stamp}-{short}.json", manifest_prefix(prefix)))
}

fn stamp(date: DateTime<Utc>) -> impl std::fmt::Display {
    date.format("%Y%m%dT%H%M%SZ")
}

/// Where the manifest is kept whose objects `s3_delete` has deleted, for a manifest below some `_manifests/`.
pub fn deleted_manifest_key(key: &str) -> Option<String> {
    let (folder, name) = key.rsplit_once('/')?;
    let prefix = folder.strip_suffix("_manifests")?;
    Some(format!("{prefix}_deleted/{name}"))
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
    fn the_id_of_a_plan_tells_where_its_manifest_is() {
        let id = new_plan_id(date());
        assert_eq!(
            manifest_key_of("raw/pins", &id),
            Some(manifest_key("raw/pins", date(), &id))
        );
        assert_eq!(manifest_key_of("raw/pins", "0123456789abcdef"), None);
        assert_eq!(
            deleted_manifest_key("raw/pins/_manifests/one.json").as_deref(),
            Some("raw/pins/_deleted/one.json")
        );
        assert_eq!(deleted_manifest_key("raw/pins/one.json"), None);
        assert_eq!(
            other_object_key("raw/a+0+1-2.parquet", 1),
            "raw/a+0+1-2~1.parquet"
        );
    }

    #[test]
    fn a_manifest_without_tails_can_be_read() {
        let manifest = Manifest::new("pins", "plan", date(), Vec::new(), Vec::new());
        let tail = Tail {
            partition: 3,
            offset: 7,
            sha256: "00".to_owned(),
        };
        assert!(!String::from_utf8_lossy(&manifest.to_json()).contains("tails"));
        let noted = manifest.clone().with_tails(vec![tail]);
        assert_eq!(Manifest::from_json(&manifest.to_json()), Ok(manifest));
        assert_eq!(Manifest::from_json(&noted.to_json()), Ok(noted));
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
