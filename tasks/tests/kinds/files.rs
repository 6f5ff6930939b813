//! `wait_for_file` on this machine and in an S3 server.

use std::{fs, time::Duration};

use pinwheel_tasks::{
    FailureClass, Kind, S3Addressing, S3Settings, WaitForFile,
    s3::{Location, ObjectStore},
};
use pinwheel_test_support::s3::S3;
use serde_json::json;

use crate::world::{World, output, sleep, table};

#[tokio::test]
async fn a_file_is_seen_once_it_is_there() {
    let s3 = S3::start().await;
    let kind = WaitForFile::new(ObjectStore::connect(s3.settings()).await);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let world = World::new();
    let with = json!({"path": path("in/*.csv"), "at_least": 2, "poke_interval": "10s"});
    let (wake_after, reason, resume) = sleep(world.run(&kind, with.clone()).await);
    assert_eq!(wake_after, Duration::from_secs(10));
    assert!(reason.starts_with("0 of 2 files match"), "{reason}");
    fs::create_dir_all(folder.path().join("in/deeper.csv")).unwrap();
    for name in [
        "in/a.csv",
        "in/b.csv.tmp",
        "in/.c.csv",
        "in/deeper.csv/d.csv",
    ] {
        fs::write(path(name), "1").unwrap();
    }
    let (_, reason, resume) = sleep(world.resume(&kind, with.clone(), Some(resume)).await);
    assert!(reason.starts_with("1 of 2 files match"), "{reason}");
    fs::write(path("in/b.csv"), "1").unwrap();
    let seen = output(world.resume(&kind, with, Some(resume)).await);
    assert_eq!(
        seen,
        json!({"files": [path("in/a.csv"), path("in/b.csv")], "count": 2})
    );
    let seen = output(world.run(&kind, json!({"path": path("in/a.csv")})).await);
    assert_eq!(seen["count"], 1);
    let seen = output(world.run(&kind, json!({"path": path("**/d.csv")})).await);
    assert_eq!(seen["count"], 1);
}

#[tokio::test]
async fn an_object_is_seen_once_it_is_there() {
    let s3 = S3::start().await;
    let store = ObjectStore::connect(s3.settings()).await;
    store.ensure_bucket("lake").await.unwrap();
    let kind = WaitForFile::new(store.clone());
    let put = async |key: &str| {
        let at = Location::new("lake", key);
        store.put(&at, "1".into(), "text/plain").await.unwrap();
    };
    let world = World::new();
    let exact = json!({"path": "s3://lake/in/day/_SUCCESS"});
    let several = json!({"path": "s3://lake/in/*/part-?.parquet"});
    put("in/day/_SUCCESS.tmp").await;
    sleep(world.run(&kind, exact.clone()).await);
    sleep(world.run(&kind, several.clone()).await);
    for key in [
        "in/day/_SUCCESS",
        "in/day/part-1.parquet",
        "in/day/part-2.parquet",
        "in/day/part-10.parquet",
        "in/day/more/part-3.parquet",
    ] {
        put(key).await;
    }
    let seen = output(world.run(&kind, exact).await);
    assert_eq!(seen["files"], json!(["s3://lake/in/day/_SUCCESS"]));
    let seen = output(world.run(&kind, several).await);
    assert_eq!(
        seen["files"],
        json!([
            "s3://lake/in/day/part-1.parquet",
            "s3://lake/in/day/part-2.parquet"
        ])
    );
    let failure = world
        .run(&kind, json!({"path": "s3://missing/key"}))
        .await
        .unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent, "{failure:?}");
}

#[tokio::test]
async fn a_path_that_names_nothing_is_refused_when_the_file_is_read() {
    let nowhere = S3Settings {
        endpoint: Some("http://127.0.0.1:9".to_owned()),
        region: "none".to_owned(),
        credentials: None,
        addressing: S3Addressing::Path,
    };
    let kind = WaitForFile::new(ObjectStore::connect(&nowhere).await);
    for path in ["data/in.csv", "s3://lake", "/data/[", "s3://lake/a**"] {
        let with = table(json!({ "path": path }));
        assert_eq!(kind.check(&with).len(), 1, "{path}");
    }
    let with = table(json!({"path": "{{ params.path }}"}));
    assert!(kind.check(&with).is_empty());
}
