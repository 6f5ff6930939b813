//! What looks after landed objects: `lake::gc`, `s3_delete`, `s3_copy`.

use std::time::Duration;

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use pinwheel_tasks::{
    Failure, FailureClass, Kind, Outcome, S3Copy, S3Delete,
    kafka_to_s3::Step,
    lake::gc,
    landing::{self, Manifest},
    s3::{Location, sha256},
};
use serde_json::{Value, json};

use super::world::{BUCKET, PREFIX, StopAt, World, context, small_chunks};

const DAYS: Duration = Duration::from_secs(86_400);

async fn run(world: &World, kind: &impl Kind, with: Value) -> Result<Value, Failure> {
    let (context, _said) = context(50, world.ledger.of_instance(50));
    let with = with.as_object().expect("a table").clone();
    assert_eq!(kind.check(&with), []);
    match kind.run(&context, with).await? {
        Outcome::Success { output } => Ok(output),
        other => panic!("it succeeds or fails, it does not answer {other:?}"),
    }
}

/// Lets a run write its objects and die; nobody tries it again.
async fn abandon(world: &World, run: i64) {
    let dying = world
        .kind()
        .observed_by(StopAt::nth(Step::ObjectsWritten, 1));
    world
        .try_once(&dying, run, small_chunks())
        .await
        .expect_err("the test stops it");
}

async fn find(world: &World, older_than: TimeDelta) -> Result<gc::Found, Failure> {
    let at = Location::new(BUCKET, "raw");
    gc::find(&world.store, &at, Utc::now() - older_than).await
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_no_manifest_names_are_collected_when_they_are_old() {
    let mut world = World::new().await;
    world.produce(300).await;
    abandon(&world, 1).await;
    let orphans = world.objects().await;
    world.produce(30).await;
    world.land(2).await;
    let foreign = Location::new(BUCKET, format!("{PREFIX}/notes.txt"));
    world
        .store
        .put(&foreign, Bytes::from_static(b"mine"), "text/plain")
        .await
        .expect("written");
    world.age_objects(3 * DAYS);
    world.produce(30).await;
    abandon(&world, 3).await;

    let week = find(&world, TimeDelta::days(7)).await.expect("it looks");
    assert_eq!(week.orphans, []);
    let found = find(&world, TimeDelta::days(2) + TimeDelta::minutes(1))
        .await
        .expect("it looks");
    let keys: Vec<_> = found
        .orphans
        .iter()
        .map(|orphan| orphan.key.clone())
        .collect();
    assert_eq!(keys, orphans);
    assert_eq!(
        found.folders.into_iter().collect::<Vec<_>>(),
        [(format!("{PREFIX}/"), 1)]
    );
    assert!(found.young >= 3, "those of the run that may be running");
    let (deleted, _bytes) = gc::delete(&world.store, BUCKET, &found.orphans)
        .await
        .expect("deleted");
    assert_eq!(deleted, orphans.len() as u64);
    assert!(
        world
            .store
            .look(&foreign)
            .await
            .expect("an answer")
            .is_some()
    );
    world.land(3).await;
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_goes_on_while_its_old_objects_are_collected_loses_nothing() {
    let mut world = World::new().await;
    world.produce(90).await;
    world.land(1).await;
    world.produce(90).await;
    abandon(&world, 2).await;
    world.age_objects(9 * DAYS);
    let found = find(&world, TimeDelta::days(7)).await.expect("it looks");
    assert!(!found.orphans.is_empty());
    world.land(2).await;
    gc::delete(&world.store, BUCKET, &found.orphans)
        .await
        .expect("deleted");
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_young_or_has_no_manifests_is_not_looked_at() {
    let world = World::new().await;
    let young = find(&world, TimeDelta::hours(47))
        .await
        .expect_err("too young");
    assert!(young.message.contains("48 hours"), "{young}");
    let nothing = find(&world, TimeDelta::days(7))
        .await
        .expect_err("no landing");
    assert_eq!(
        nothing.message,
        "there is no landing and no cleaned dataset below `s3://lake/raw/`"
    );
    let at = Location::new(BUCKET, format!("{PREFIX}/_manifests/x.json"));
    world
        .store
        .put(&at, Bytes::from_static(b"{"), "application/json")
        .await
        .expect("written");
    let broken = find(&world, TimeDelta::days(7))
        .await
        .expect_err("no manifest");
    assert!(
        broken
            .message
            .starts_with("`s3://lake/raw/pins/_manifests/x.json` is no manifest")
    );
}

/// Writes the manifest of a partition that was cleaned from a landing.
async fn clean(world: &World, from: &str, landed: u64) -> String {
    let part = Location::new(BUCKET, "clean/pins/dt=2026-01-01/part.parquet");
    let body = Bytes::from_static(b"rows");
    let manifest = json!({
        "version": 1, "dataset": "pins", "contract_sha256": "", "key": "unique_id", "columns": [],
        "partition": "one", "logical_date": "2026-01-01T00:00:00Z", "landing": from, "ranges": [],
        "parts": [{ "key": part.key, "rows": landed, "bytes": body.len(), "sha256": sha256(&body) }],
        "dead_letters": [], "rules": {},
        "counts": { "landed": landed, "cleaned": landed, "dead_lettered": 0, "quarantined": 0, "duplicates": 0 },
    });
    world
        .store
        .put(&part, body, "application/octet-stream")
        .await
        .expect("written");
    let at = Location::new(BUCKET, "clean/pins/_manifests/one.json");
    let text = Bytes::from(manifest.to_string());
    world
        .store
        .put(&at, text, "application/json")
        .await
        .expect("written");
    at.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_landing_is_deleted_once_a_later_task_has_stored_all_of_it() {
    let mut world = World::new().await;
    world.produce(90).await;
    let landed = world.land(1).await;
    let manifest = landed["manifest"].as_str().expect("an address");
    let stored = clean(&world, manifest, 90).await;
    let kind = S3Delete::new(world.store.clone());
    let objects = world.objects().await.len();

    let dry = json!({ "manifest": manifest, "stored": stored, "dry_run": true });
    let output = run(&world, &kind, dry).await.expect("it may be deleted");
    assert_eq!(
        (&output["objects"], &output["bytes"], &output["dry_run"]),
        (&json!(objects), &landed["bytes"], &json!(true))
    );
    assert_eq!(world.objects().await.len(), objects);
    world.assert_each_record_landed_once().await;

    let with = json!({ "manifest": manifest, "stored": stored });
    let output = run(&world, &kind, with.clone()).await.expect("deleted");
    assert_eq!(world.objects().await, [] as [String; 0]);
    assert!(world.manifests().await.is_empty());
    let kept: Location = output["manifest"]
        .as_str()
        .expect("an address")
        .parse()
        .expect("an address");
    let kept = landing::read::manifest(&world.store, &kept)
        .await
        .expect("a manifest");
    assert_eq!(kept.records, 90);
    assert_eq!(run(&world, &kind, with).await.expect("again"), output);

    // The next landing knows from the kept manifest that the topic is still the same.
    world.produced.clear();
    let producer = world.producer();
    let more = (0..3).map(|partition| (partition, super::world::record(4)));
    world.send(&producer, more.collect()).await;
    world.land(2).await;
    assert_eq!(world.manifests().await[0].tails.len(), 3);
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_without_proof() {
    let mut world = World::new().await;
    world.produce(90).await;
    let landed = world.land(1).await;
    let manifest = landed["manifest"].as_str().expect("an address");
    let kind = S3Delete::new(world.store.clone());
    let objects = world.objects().await;
    let elsewhere = clean(&world, "s3://lake/raw/pins/_manifests/other.json", 90).await;
    let mut reasons = Vec::new();
    let mut refuse = |failure: Failure| {
        assert_eq!(failure.class, FailureClass::Permanent);
        reasons.push(failure.message);
    };
    let with = json!({ "manifest": manifest, "stored": elsewhere });
    refuse(
        run(&world, &kind, with.clone())
            .await
            .expect_err("another landing"),
    );
    clean(&world, manifest, 89).await;
    refuse(
        run(&world, &kind, with.clone())
            .await
            .expect_err("one is missing"),
    );
    clean(&world, manifest, 90).await;
    let part = Location::new(BUCKET, "clean/pins/dt=2026-01-01/part.parquet");
    world.store.delete(&part).await.expect("deleted");
    refuse(run(&world, &kind, with).await.expect_err("it is gone"));
    let count = json!({ "manifest": manifest, "stored_records": 89 });
    refuse(run(&world, &kind, count).await.expect_err("one is missing"));
    assert_eq!(
        reasons,
        [
            format!(
                "`{elsewhere}` was cleaned from `s3://lake/raw/pins/_manifests/other.json`: nothing of `{manifest}` is deleted"
            ),
            format!(
                "`{elsewhere}` accounts for 89 of 90 records: nothing of `{manifest}` is deleted"
            ),
            format!(
                "`{part}`, which `{elsewhere}` names, is gone: nothing of `{manifest}` is deleted"
            ),
            format!("`{manifest}` has 90 records, 89 were stored: nothing is deleted"),
        ]
    );
    assert_eq!(world.objects().await, objects);
    let count = json!({ "manifest": manifest, "stored_records": 90 });
    run(&world, &kind, count).await.expect("deleted");
    assert!(world.objects().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_landing_is_copied_and_its_manifest_names_the_copies() {
    let mut world = World::new().await;
    world.produce(90).await;
    let landed = world.land(1).await;
    world
        .store
        .ensure_bucket("archive")
        .await
        .expect("the bucket can be made");
    let kind = S3Copy::new(world.store.clone());
    let with = json!({ "from": landed["manifest"], "to": "s3://archive/2026/" });
    let output = run(&world, &kind, with.clone()).await.expect("copied");
    assert_eq!(output["copied"], landed["objects"]);
    assert_eq!(output["bytes"], landed["bytes"]);
    let at: Location = output["manifest"]
        .as_str()
        .expect("an address")
        .parse()
        .expect("an address");
    assert!(at.key.starts_with("2026/_manifests/"), "{at}");
    let copy = landing::read::manifest(&world.store, &at)
        .await
        .expect("a manifest");
    let own = world.manifests().await.remove(0);
    for (copied, own) in copy.objects.iter().zip(&own.objects) {
        assert!(copied.key.starts_with("2026/dt="), "{}", copied.key);
        let body = landing::read::body(&world.store, "archive", copied)
            .await
            .expect("the object is there");
        landing::read::messages("archive", copied, &body).expect("the same bytes");
        assert_eq!(copied.sha256, own.sha256);
    }
    assert_eq!(
        Manifest {
            objects: own.objects.clone(),
            ..copy
        },
        own
    );
    let again = run(&world, &kind, with).await.expect("nothing is to do");
    assert_eq!(again["copied"], json!(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_content_is_replaced_on_request_only() {
    let world = World::new().await;
    let put = async |key: &str, body: &'static [u8]| {
        let at = Location::new(BUCKET, key);
        let body = Bytes::from_static(body);
        world
            .store
            .put(&at, body, "text/plain")
            .await
            .expect("written");
    };
    put("a/one.txt", b"one").await;
    put("a/b/two ö.txt", b"two").await;
    put("c/one.txt", b"other").await;
    let kind = S3Copy::new(world.store.clone());
    let with = json!({ "from": "s3://lake/a/", "to": "s3://lake/c/" });
    let failure = run(&world, &kind, with).await.expect_err("it is taken");
    assert_eq!(
        failure.message,
        "`s3://lake/c/one.txt` exists with different content"
    );
    let with = json!({ "from": "s3://lake/a/", "to": "s3://lake/c/", "replace": true });
    run(&world, &kind, with).await.expect("replaced");
    let all = world.store.list(&Location::new(BUCKET, "c/")).await;
    assert_eq!(all.expect("listed"), ["c/b/two ö.txt", "c/one.txt"]);
    let at = Location::new(BUCKET, "c/one.txt");
    assert_eq!(&world.store.get(&at).await.expect("there")[..], b"one");
    let with = json!({ "from": "s3://lake/a/one.txt", "to": "s3://lake/d" });
    run(&world, &kind, with).await.expect("copied");
    let at = Location::new(BUCKET, "d");
    assert_eq!(&world.store.get(&at).await.expect("there")[..], b"one");
    let with = json!({ "from": "s3://lake/none", "to": "s3://lake/e" });
    let failure = run(&world, &kind, with).await.expect_err("nothing there");
    assert_eq!(failure.message, "`s3://lake/none` does not exist");
}
