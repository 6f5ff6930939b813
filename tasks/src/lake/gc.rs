//! Orphans: objects of landings and cleaned datasets that no manifest names. A try that died before its manifest leaves
//! them, and so does a partition that was cleaned again.
//!
//! This file never deletes what any manifest names, nor what is young: a task that runs has written its objects and not
//! yet its manifest. Objects are listed before the manifests are read, so a manifest that comes meanwhile is seen. What a
//! partition held before it was cleaned again is as young as its manifest: somebody may still read by the one before.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use super::folder;
use crate::{
    Failure,
    s3::{FRESH, Listed, Location, ObjectStore},
};

/// No object younger than this is ever an orphan. A landing uses what an earlier try wrote as long as it is younger than
/// [`FRESH`], and then has as long again to write its manifest.
pub const YOUNGEST: TimeDelta = TimeDelta::hours(2 * FRESH.num_hours());

/// Requests under way at once.
const AT_ONCE: usize = 16;

const MANIFESTS: &str = "_manifests/";

/// What was found below one address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The folders that have manifests, and how many.
    pub folders: BTreeMap<String, usize>,
    /// Objects that a manifest names.
    pub named: u64,
    /// Objects that no manifest names and that are younger than the limit, or were replaced since.
    pub young: u64,
    /// Objects that no manifest names.
    pub orphans: Vec<Listed>,
}

impl Found {
    /// The size of all orphans.
    pub fn bytes(&self) -> u64 {
        self.orphans.iter().map(|orphan| orphan.bytes).sum()
    }
}

/// Finds the orphans below `at` that were written before `before`, and not replaced since. Nothing is changed.
///
/// # Errors
/// There is no manifest below `at`, one cannot be read, `before` is later than [`YOUNGEST`] allows, or the store does not
/// answer.
pub async fn find(
    store: &ObjectStore,
    at: &Location,
    before: DateTime<Utc>,
) -> Result<Found, Failure> {
    if before > Utc::now() - YOUNGEST {
        return Err(Failure::permanent(format!(
            "objects of the last {} hours cannot be told from those of a task that runs",
            YOUNGEST.num_hours()
        ))
        .with_hint("give an age of `2d` or more"));
    }
    let root = Location::new(&at.bucket, folder(&at.key));
    let objects = store.objects(&root).await?;
    let folders: BTreeSet<&str> = objects
        .iter()
        .filter_map(|object| home(&object.key))
        .collect();
    if folders.is_empty() {
        return Err(Failure::permanent(format!(
            "there is no landing and no cleaned dataset below `{root}`"
        ))
        .with_hint(
            "give the prefix of a `kafka_to_s3` or the `to` of a `clean` task, or one above",
        ));
    }
    let mut found = Found::default();
    let mut named = BTreeSet::new();
    for folder in &folders {
        let manifests = store
            .list(&Location::new(&root.bucket, format!("{folder}{MANIFESTS}")))
            .await?;
        found.folders.insert((*folder).to_owned(), manifests.len());
        let texts: Vec<Vec<String>> = stream::iter(manifests)
            .map(|key| names(store, Location::new(&root.bucket, key)))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        named.extend(texts.into_iter().flatten());
    }
    // After they were read: what is not named by what was read was replaced by then.
    let mut replaced = BTreeMap::new();
    for folder in &folders {
        let manifests = Location::new(&root.bucket, format!("{folder}{MANIFESTS}"));
        for manifest in store.objects(&manifests).await? {
            replaced.insert(manifest.key, manifest.modified);
        }
    }
    for object in &objects {
        if named.contains(&object.key) {
            found.named += 1;
        } else if may_be_an_orphan(&object.key, &folders) {
            let since = manifest_of(&object.key, &folders).and_then(|key| replaced.get(&key));
            if object.modified < before && since.is_none_or(|since| *since < before) {
                found.orphans.push(object.clone());
            } else {
                found.young += 1;
            }
        }
    }
    Ok(found)
}

/// Deletes orphans that are still as old as they were found. Answers how many, and their size.
///
/// # Errors
/// The store does not answer or refuses; what was deleted until then stays deleted.
pub async fn delete(
    store: &ObjectStore,
    bucket: &str,
    orphans: &[Listed],
) -> Result<(u64, u64), Failure> {
    let deleted: Vec<Option<u64>> = stream::iter(orphans.to_vec())
        .map(|orphan| async move {
            let at = Location::new(bucket, &orphan.key);
            // Whoever counts on an object that was there before has written it once more.
            match store.look(&at).await? {
                Some(now) if now.modified <= orphan.modified => {
                    store.delete(&at).await?;
                    Ok(Some(orphan.bytes))
                }
                _ => Ok::<_, Failure>(None),
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let deleted: Vec<u64> = deleted.into_iter().flatten().collect();
    Ok((deleted.len() as u64, deleted.iter().sum()))
}

/// The folder in whose `_manifests/` a key is.
fn home(key: &str) -> Option<&str> {
    let at = key.rfind(MANIFESTS)?;
    let folder = &key[..at];
    (folder.is_empty() || folder.ends_with('/')).then_some(folder)
}

/// Whether a key is one that a landing or a `clean` task would write below the nearest of these folders. Anything else
/// there is none of our business.
fn may_be_an_orphan(key: &str, folders: &BTreeSet<&str>) -> bool {
    below(key, folders).is_some_and(|(_, rest)| {
        (rest.starts_with("dt=") && rest.ends_with(".parquet"))
            || (rest.starts_with("_dead_letters/") && rest.ends_with(".ndjson"))
    })
}

/// The nearest folder above a key, and the rest of it.
fn below<'a>(key: &'a str, folders: &BTreeSet<&'a str>) -> Option<(&'a str, &'a str)> {
    folders
        .iter()
        .filter_map(|folder| Some((*folder, key.strip_prefix(folder)?)))
        .min_by_key(|(_, rest)| rest.len())
}

/// The key of the manifest of the partition to which `clean` wrote this object, if `clean` did.
fn manifest_of(key: &str, folders: &BTreeSet<&str>) -> Option<String> {
    let (folder, rest) = below(key, folders)?;
    let partition = match rest.strip_prefix("_dead_letters/") {
        Some(rest) => rest.split_once('/')?.0,
        // After the partition's name comes a part of the checksum.
        None => rest.split_once('/')?.1.rsplit_once('-')?.0,
    };
    Some(format!("{folder}{MANIFESTS}{partition}.json"))
}

/// Every text of a manifest: whatever a manifest of any kind mentions is kept.
async fn names(store: &ObjectStore, at: Location) -> Result<Vec<String>, Failure> {
    let Some(text) = store.get_if_exists(&at).await? else {
        // Deleted since it was listed, by whoever deletes its objects too.
        return Ok(Vec::new());
    };
    let manifest: Value = serde_json::from_slice(&text).map_err(|error| {
        Failure::permanent(format!("`{at}` is no manifest: {error}")).with_hint(
            "without it nobody knows which objects are orphans; move it away or repair it",
        )
    })?;
    let mut names = Vec::new();
    collect(manifest, &mut names);
    Ok(names)
}

fn collect(value: Value, names: &mut Vec<String>) {
    match value {
        Value::String(text) => names.push(text),
        Value::Array(items) => items.into_iter().for_each(|item| collect(item, names)),
        Value::Object(table) => table.into_iter().for_each(|(_, item)| collect(item, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_our_tasks_write_can_be_an_orphan() {
        let folders = BTreeSet::from(["raw/", "raw/pins/"]);
        for (key, may) in [
            ("raw/dt=2026-01-01/pins+0+1-2.parquet", true),
            ("raw/pins/dt=2026-01-01/pins+0+1-2.parquet", true),
            ("raw/pins/_dead_letters/x/0-1.ndjson", true),
            ("raw/pins/_manifests/x.json", false),
            ("raw/pins/_deleted/x.json", false),
            ("raw/pins/notes.parquet", false),
            ("raw/geo/dt=2026-01-01/geo+0+1-2.parquet", false),
            ("clean/dt=2026-01-01/a.parquet", false),
        ] {
            assert_eq!(may_be_an_orphan(key, &folders), may, "{key}");
        }
    }

    #[test]
    fn the_manifest_of_a_cleaned_object_is_known_by_its_name() {
        let folders = BTreeSet::from(["clean/pins/"]);
        for key in [
            "clean/pins/dt=2026-01-01/20260101T000000Z-0123456789ab-fedcba987654.parquet",
            "clean/pins/_dead_letters/20260101T000000Z-0123456789ab/0-1-fedcba987654.ndjson",
        ] {
            assert_eq!(
                manifest_of(key, &folders).as_deref(),
                Some("clean/pins/_manifests/20260101T000000Z-0123456789ab.json")
            );
        }
        assert_eq!(manifest_of("clean/pins/notes.txt", &folders), None);
    }

    #[test]
    fn a_folder_is_known_by_its_manifests() {
        assert_eq!(home("raw/pins/_manifests/x.json"), Some("raw/pins/"));
        assert_eq!(home("_manifests/x.json"), Some(""));
        assert_eq!(home("raw/my_manifests/x.json"), None);
        assert_eq!(home("raw/x.json"), None);
    }

    #[test]
    fn every_text_of_a_manifest_is_kept() {
        let mut names = Vec::new();
        let manifest =
            serde_json::json!({ "objects": [{ "key": "a" }, { "more": { "key": "b" } }], "n": 1 });
        collect(manifest, &mut names);
        assert_eq!(names, ["a", "b"]);
    }
}
