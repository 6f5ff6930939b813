//! `pinwheel lake gc` through the binary: what it finds, what it deletes, and what it leaves alone.

use std::{
    fs::{self, File},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use pinwheel_tasks::{Clean, dataset::Catalog, s3::Location};
use serde_json::{Value, json};

use crate::{
    cleaning::{House, demo, run},
    harness::{PINWHEEL, fresh_directory, text},
};

const DAYS: Duration = Duration::from_secs(86_400);

/// Makes what is below a folder so much older.
fn age(folder: &Path, by: Duration) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            age(&entry.path(), by);
            continue;
        }
        let file = File::options()
            .append(true)
            .open(entry.path())
            .expect("a file of ours");
        let modified = file.metadata().and_then(|data| data.modified());
        let then = modified.unwrap_or_else(|_| SystemTime::now()) - by;
        file.set_modified(then).expect("a file of ours");
    }
}

/// A house whose objects can be collected through the binary.
struct Lake {
    house: House,
    data_dir: std::path::PathBuf,
}

impl Lake {
    async fn new(name: &str) -> Self {
        Self {
            house: House::new().await,
            data_dir: fresh_directory(name),
        }
    }

    async fn put(&self, key: &str) {
        self.house
            .store
            .put(
                &Location::new("lake", key),
                b"bytes".to_vec().into(),
                "text/plain",
            )
            .await
            .expect("written");
    }

    async fn gc(&self, arguments: &[&str]) -> std::process::Output {
        let settings = self.house.server.settings().clone();
        let keys = settings.credentials.expect("a test's server has some");
        let mut command = tokio::process::Command::new(PINWHEEL);
        command
            .args(["lake", "gc"])
            .args(arguments)
            .current_dir(&self.data_dir)
            .env("PINWHEEL_DATA_DIR", &self.data_dir)
            .env("PINWHEEL_S3_ENDPOINT", settings.endpoint.expect("its own"))
            .env("PINWHEEL_S3_REGION", settings.region)
            .env("PINWHEEL_S3_ACCESS_KEY_ID", keys.access_key_id)
            .env("PINWHEEL_S3_SECRET_ACCESS_KEY", keys.secret_access_key);
        command
            .output()
            .await
            .expect("the binary under test starts")
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.gc(&[arguments, &["--json"]].concat()).await;
        assert!(output.status.success(), "{}", text(&output));
        serde_json::from_slice(&output.stdout).expect("it prints JSON")
    }

    async fn orphans(&self, arguments: &[&str]) -> Vec<String> {
        let found = self.json(arguments).await;
        let orphans = found["orphans"].as_array().expect("a list");
        let key = |orphan: &Value| orphan["key"].as_str().expect("a key").to_owned();
        orphans.iter().map(key).collect()
    }

    /// Cleans a landing by the shipped contract or, as after a change of it, by one that another title is missing to.
    async fn clean_by(&self, landed: &str, title: Option<&str>) -> Value {
        let datasets = concat!(env!("CARGO_MANIFEST_DIR"), "/dags/datasets/pins.toml");
        let shipped = fs::read_to_string(datasets).expect("it ships");
        let missing = "placeholders = [\"No Title Data Available\"]";
        assert!(shipped.contains(missing));
        let text = match title {
            Some(title) => shipped.replace(
                missing,
                &format!("placeholders = [\"No Title Data Available\", {title}]"),
            ),
            None => shipped,
        };
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(folder.path().join("pins.toml"), text).expect("written");
        let catalog = Catalog::load(folder.path()).unwrap_or_else(|error| panic!("{error}"));
        let kind = Clean::new(self.house.store.clone(), Arc::new(catalog));
        let with = json!({ "dataset": "pins", "from": landed, "to": "s3://lake/clean/pins/" });
        run(&kind, with)
            .await
            .unwrap_or_else(|failure| panic!("{failure}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_listed_first_and_deleted_on_request_and_nothing_else_is_touched() {
    let lake = Lake::new("lake-gc").await;
    lake.house.land("0123456789abcdef", 0, &demo(), 100).await;
    let kept = lake.house.keys("").await;
    let orphan =
        "landing/pins/dt=2026-01-01/pins+0+00000000000000000900-00000000000000000999.parquet";
    let foreign = "landing/pins/notes.parquet";
    lake.put(orphan).await;
    lake.put(foreign).await;
    lake.put("elsewhere/dt=2026-01-01/pins+0+1-2.parquet").await;
    age(lake.house.server.folder(), 3 * DAYS);
    let young =
        "landing/pins/dt=2026-01-01/pins+0+00000000000000001000-00000000000000001099.parquet";
    lake.put(young).await;
    let before = lake.house.keys("").await;

    // A week is the default.
    assert_eq!(lake.orphans(&["s3://lake/"]).await, [] as [String; 0]);
    let listed = lake.gc(&["s3://lake/", "--older-than", "2d"]).await;
    let said = text(&listed);
    assert!(listed.status.success(), "{said}");
    assert!(said.contains(orphan) && !said.contains(young), "{said}");
    assert!(said.contains("1 orphans (5 bytes)"), "{said}");
    assert!(said.contains("nothing was deleted"), "{said}");
    assert_eq!(lake.house.keys("").await, before);

    let found = lake
        .json(&["s3://lake/landing/pins", "--older-than", "2d", "--delete"])
        .await;
    assert_eq!(found["deleted"], json!({ "objects": 1, "bytes": 5 }));
    assert_eq!(found["young"], json!(1));
    let mut after = before;
    after.retain(|key| key != orphan);
    assert_eq!(lake.house.keys("").await, after);
    assert!(kept.iter().all(|key| after.contains(key)));

    let too_young = lake.gc(&["s3://lake/", "--older-than", "1d"]).await;
    assert!(!too_young.status.success());
    assert!(
        text(&too_young).contains("48 hours"),
        "{}",
        text(&too_young)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_partition_held_before_it_was_cleaned_again_is_an_orphan_once_nobody_can_read_it() {
    let lake = Lake::new("lake-gc-cleaned").await;
    let mut messages = demo();
    messages.push(Some(b"no JSON".to_vec()));
    let landed = lake.house.land("0123456789abcdef", 0, &messages, 100).await;
    lake.clean_by(&landed, None).await;
    let first = lake.house.keys("clean/pins/dt=").await;
    assert!(!first.is_empty());
    age(lake.house.server.folder(), 9 * DAYS);
    // Every title is the title of somebody.
    let title = lake
        .house
        .query("select title from pins where title is not null order by title limit 1")
        .await
        .expect("the query runs")[0]["title"]
        .to_string();
    lake.clean_by(&landed, Some(&title)).await;
    let second = lake.house.keys("clean/pins/dt=").await;
    assert!(second.len() > first.len(), "it wrote other parts");
    let rows = lake.house.query("select count(*) as rows from pins").await;

    // They are old, but replaced just now: a query that began before may still read them.
    assert_eq!(lake.orphans(&["s3://lake/"]).await, [] as [String; 0]);
    age(lake.house.server.folder(), 8 * DAYS);
    let orphans = lake.orphans(&["s3://lake/"]).await;
    assert_eq!(orphans, first);
    lake.json(&["s3://lake/", "--delete"]).await;
    let mut left = second;
    left.retain(|key| !first.contains(key));
    assert_eq!(lake.house.keys("clean/pins/dt=").await, left);
    let after = lake.house.query("select count(*) as rows from pins").await;
    assert_eq!(after.expect("it runs"), rows.expect("it runs"));
    assert_eq!(lake.orphans(&["s3://lake/"]).await, [] as [String; 0]);
}
