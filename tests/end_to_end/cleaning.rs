//! From landed messages to reports, in process: `clean`, the lake, queries and `report` over an S3 server, on the real records.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use chrono::{DateTime, TimeZone, Utc};
use pinwheel_tasks::{
    Clean, Failure, FailureClass, Kind, Report,
    dataset::Catalog,
    lake::{Lake, Partition},
    landing::{
        LandedObject, LandedRange, Manifest,
        columns::{self, Columns, Record},
        manifest_key, object_key,
    },
    query,
    s3::{Location, ObjectStore, sha256},
};
use pinwheel_test_support::{once, s3::S3};
use serde_json::{Map, Value, json};

const RECORDS: &str = include_str!("../../data/pins.ndjson");
const TOPIC: &str = "pins";

/// A store, the shipped datasets and reports, and landed messages.
pub(crate) struct House {
    pub(crate) server: S3,
    pub(crate) store: ObjectStore,
}

impl House {
    pub(crate) async fn new() -> Self {
        let server = S3::start().await;
        let store = ObjectStore::connect(server.settings()).await;
        store
            .ensure_bucket("lake")
            .await
            .expect("the bucket can be made");
        Self { store, server }
    }

    /// Lands messages as `kafka_to_s3` does, `per_object` to an object; gives the manifest's address.
    pub(crate) async fn land(
        &self,
        plan: &str,
        first: i64,
        messages: &[Option<Vec<u8>>],
        per_object: usize,
    ) -> String {
        let date = logical_date();
        let mut objects = Vec::new();
        for (index, chunk) in messages.chunks(per_object).enumerate() {
            let start = first + i64::try_from(index * per_object).expect("few messages");
            let mut records = Columns::default();
            for (offset, message) in (start..).zip(chunk) {
                records.push(&Record {
                    offset,
                    timestamp: Some(1_767_225_600_000 + offset),
                    key: Some(b"key"),
                    value: message.as_deref(),
                    headers: Vec::new(),
                });
            }
            let last = start + i64::try_from(chunk.len()).expect("few messages") - 1;
            let body = columns::encode(records.finish().expect("the records form a frame"))
                .expect("the frame is written");
            let key = object_key("landing/pins", date, TOPIC, 0, start, last);
            let object = LandedObject {
                key,
                partition: 0,
                first_offset: start,
                last_offset: last,
                records: chunk.len() as u64,
                bytes: body.len() as u64,
                sha256: sha256(&body),
            };
            self.store
                .put_if_absent(&Location::new("lake", &object.key), body.into())
                .await
                .expect("the object is written");
            objects.push(object);
        }
        let records = messages.len() as u64;
        let end = first + i64::try_from(messages.len()).expect("few messages");
        let manifest = Manifest::new(
            TOPIC,
            plan,
            date,
            vec![LandedRange {
                partition: 0,
                start: first,
                end,
                records,
            }],
            objects,
        );
        let at = Location::new("lake", manifest_key("landing/pins", date, plan));
        self.store
            .put(&at, manifest.to_json().into(), "application/json")
            .await
            .expect("the manifest is written");
        at.to_string()
    }

    async fn clean(&self, manifest: &str) -> Result<Value, Failure> {
        let catalog =
            Catalog::load(dags().join("datasets")).unwrap_or_else(|error| panic!("{error}"));
        let with = json!({ "dataset": "pins", "from": manifest, "to": "s3://lake/clean/pins/" });
        run(&Clean::new(self.store.clone(), Arc::new(catalog)), with).await
    }

    pub(crate) async fn query(&self, sql: &str) -> Result<Vec<Map<String, Value>>, Failure> {
        let rows = query::run(&self.store, &self.datasets(), sql).await?;
        Ok(query::row_objects(&rows).expect("the rows can be shown"))
    }

    fn datasets(&self) -> BTreeMap<String, Location> {
        let lake = Lake::new(self.store.clone(), Location::new("lake", "clean"));
        BTreeMap::from(["pins".to_owned()].map(|name| (name.clone(), lake.location(&name))))
    }

    async fn partition(&self, manifest: &Value) -> Partition {
        let at: Location = manifest
            .as_str()
            .expect("an address")
            .parse()
            .expect("an address");
        Partition::from_json(&self.store.get(&at).await.expect("the manifest exists"))
            .expect("it is a manifest")
    }

    pub(crate) async fn keys(&self, prefix: &str) -> Vec<String> {
        self.store
            .list(&Location::new("lake", prefix))
            .await
            .expect("the store answers")
    }
}

fn dags() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/dags"))
}

fn logical_date() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 1, 2, 0, 0)
        .single()
        .expect("a date")
}

pub(crate) async fn run(kind: &dyn Kind, with: Value) -> Result<Value, Failure> {
    once::run(kind, 7, (logical_date(), logical_date()), with).await
}

fn pins() -> Vec<Option<Vec<u8>>> {
    RECORDS
        .lines()
        .map(|line| Some(line.as_bytes().to_vec()))
        .collect()
}

fn malformed() -> Vec<Option<Vec<u8>>> {
    let wrong_type = RECORDS
        .lines()
        .next()
        .expect("the file has records")
        .replace("\"index\": 7528", "\"index\": \"7528\"");
    [
        b"{\"category\": ".as_slice(),
        wrong_type.as_bytes(),
        b"{\"category\": \"art\"}",
        b"\xff\xfe\xfd",
        b"",
    ]
    .map(|bytes| Some(bytes.to_vec()))
    .into()
}

/// 200 posts, 40 of them a second time, 5 malformed messages in between.
pub(crate) fn demo() -> Vec<Option<Vec<u8>>> {
    let mut messages = pins();
    messages.extend(malformed());
    messages.extend(pins().into_iter().take(40));
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_messages_clean_to_200_rows() {
    let house = House::new().await;
    let landed = house.land("0123456789abcdef", 0, &demo(), 100).await;
    let output = house
        .clean(&landed)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    let counts = [
        "landed",
        "cleaned",
        "dead_lettered",
        "quarantined",
        "duplicates",
    ]
    .map(|name| output[name].as_u64());
    assert_eq!(counts, [245, 200, 5, 0, 40].map(Some));
    for (rule, count) in [
        ("not_json", 1),
        ("wrong_type:index", 1),
        ("missing_field:unique_id", 1),
        ("not_utf8", 1),
        ("empty", 1),
        ("placeholder:image_src", 8),
    ] {
        assert!(
            output["rules"][rule].as_u64() >= Some(1),
            "{rule} fired {count} times: {}",
            output["rules"]
        );
    }

    let one = async |sql: &str| {
        let rows = house
            .query(sql)
            .await
            .unwrap_or_else(|failure| panic!("{sql}: {failure}"));
        rows[0].values().next().cloned().unwrap_or_default()
    };
    assert_eq!(one("select count(*) from pins").await, 200);
    assert_eq!(one("select count(distinct unique_id) from pins").await, 200);
    assert_eq!(
        one("select count(*) from pins where follower_count is null").await,
        3
    );
    assert_eq!(
        one("select median(follower_count) from pins").await,
        25_000.0
    );
    assert_eq!(one("select max(follower_count) from pins").await, 8_000_000);
    assert_eq!(
        one("select sum(follower_count) from pins").await,
        70_087_971
    );
    assert_eq!(
        one("select min(_offset) from pins").await,
        40,
        "the later message of a key stays"
    );
    let tags = house
        .query("select tag_list from pins")
        .await
        .expect("the query runs");
    assert_eq!(
        tags.iter().filter(|row| row["tag_list"].is_null()).count(),
        6
    );
    assert!(
        tags.iter()
            .filter_map(|row| row["tag_list"].as_array())
            .all(|tags| tags.len() == 9)
    );
    let names = house.query("show tables").await.expect("tables are listed");
    assert_eq!(names[0]["name"], "pins");
    let lake = Lake::new(house.store.clone(), Location::new("lake", "clean/"));
    assert_eq!(lake.datasets().await.expect("the lake is read"), ["pins"]);
    assert!(
        house.keys("").await.iter().all(|key| key.len() <= 125),
        "keys stay short"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_carry_rule_offset_and_raw_bytes() {
    let house = House::new().await;
    let mut messages = demo();
    messages.push(None);
    messages.push(Some(
        RECORDS
            .lines()
            .next()
            .expect("a record")
            .replace("fbe53c66-", "not-hex!-")
            .into_bytes(),
    ));
    let landed = house.land("0123456789abcdef", 1_000, &messages, 64).await;
    let output = house
        .clean(&landed)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(
        (
            output["dead_lettered"].as_u64(),
            output["quarantined"].as_u64()
        ),
        (Some(6), Some(1))
    );
    let partition = house.partition(&output["manifest"]).await;
    assert!(partition.counts.add_up());
    assert_eq!(
        partition.parts.iter().map(|part| part.rows).sum::<u64>(),
        200
    );

    let mut found = BTreeMap::new();
    for part in &partition.dead_letters {
        assert!(part.key.starts_with("clean/pins/_dead_letters/"));
        let body = house
            .store
            .get(&Location::new("lake", &part.key))
            .await
            .expect("the dead letters exist");
        assert_eq!(sha256(&body), part.sha256);
        for line in std::str::from_utf8(&body).expect("UTF-8").lines() {
            let letter: Value = serde_json::from_str(line).expect("a line is JSON");
            found.insert(letter["offset"].as_i64().expect("an offset"), letter);
        }
    }
    assert_eq!(found.len(), 7);
    for (offset, letter) in &found {
        let message = &messages[usize::try_from(offset - 1_000).expect("an offset of the landing")];
        assert_eq!(
            letter["raw"].as_str().map(decode),
            *message,
            "offset {offset}"
        );
        assert!(
            letter["rule"].is_string() && letter["detail"].is_string() && letter["partition"] == 0
        );
    }
    assert_eq!(found[&1_245]["rule"], "tombstone");
    assert_eq!(
        (&found[&1_246]["rule"], &found[&1_246]["stage"]),
        (&json!("uuid:unique_id"), &json!("contract"))
    );
}

fn decode(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b'=')
        .map(|byte| {
            u8::try_from(
                DIGITS
                    .iter()
                    .position(|digit| *digit == byte)
                    .expect("base64"),
            )
            .expect("six bits")
        })
        .flat_map(|digit| (0..6).rev().map(move |bit| digit >> bit & 1))
        .collect();
    bits.chunks_exact(8)
        .map(|byte| byte.iter().fold(0, |value, bit| value << 1 | bit))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_replaces_its_partition_and_a_later_landing_wins() {
    let house = House::new().await;
    let first = house.land("aaaaaaaaaaaaaaaa", 0, &demo(), 100).await;
    let output = house
        .clean(&first)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    let before = house.keys("clean/").await;
    assert_eq!(
        house
            .clean(&first)
            .await
            .unwrap_or_else(|failure| panic!("{failure}")),
        output
    );
    assert_eq!(
        house.keys("clean/").await,
        before,
        "a rerun writes the same objects"
    );

    let mut changed: Value =
        serde_json::from_slice(&pins()[0].clone().expect("a record")).expect("JSON");
    changed["title"] = json!("A later title");
    changed["new_field"] = json!([1]);
    let mut later = pins();
    later[0] = Some(changed.to_string().into_bytes());
    // The name sorts before the first one: the offsets decide.
    let second = house.land("0000000000000000", 245, &later, 100).await;
    house
        .clean(&second)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    // And once more the older one, as after a clear: it must not win.
    house
        .clean(&first)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    let rows = house
        .query("select count(*) as rows, min(_offset) as first from pins")
        .await
        .expect("the query runs");
    assert_eq!(
        Value::Object(rows[0].clone()),
        json!({"rows": 200, "first": 245})
    );
    let rows = house
        .query("select extra from pins where title = 'A later title'")
        .await
        .expect("the query runs");
    assert_eq!(rows[0]["extra"], json!(r#"{"new_field":[1]}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_batch_fails_for_good_after_its_dead_letters_are_kept() {
    let house = House::new().await;
    let mut messages: Vec<Option<Vec<u8>>> = pins().into_iter().take(10).collect();
    messages.extend((0..30).map(|_| Some(b"{".to_vec())));
    let landed = house.land("0123456789abcdef", 0, &messages, 100).await;
    let failure = house
        .clean(&landed)
        .await
        .expect_err("too many are rejected");
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(
        failure.message.contains("30 of 40") && failure.message.contains("`not_json` (30)"),
        "{failure}"
    );
    let hint = failure.hint.expect("a hint");
    assert!(
        hint.contains("s3://lake/clean/pins/_dead_letters/"),
        "{hint}"
    );
    assert_eq!(house.keys("clean/pins/_dead_letters/").await.len(), 1);
    assert!(house.keys("clean/pins/_manifests/").await.is_empty());
    let failure = house
        .query("select * from pins")
        .await
        .expect_err("nothing was cleaned");
    assert!(failure.message.contains("no cleaned data"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_landing_is_an_empty_partition() {
    let house = House::new().await;
    let landed = house.land("0123456789abcdef", 0, &[], 100).await;
    let output = house
        .clean(&landed)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(
        (output["landed"].as_u64(), output["dead_letters"].is_null()),
        (Some(0), true)
    );
    let rows = house
        .query("select count(*) as rows from pins")
        .await
        .expect("the query runs");
    assert_eq!(rows[0]["rows"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_after_it_was_written_is_not_read() {
    let house = House::new().await;
    let landed = house.land("0123456789abcdef", 0, &demo(), 300).await;
    house
        .clean(&landed)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    let part = house.keys("clean/pins/dt=").await.remove(0);
    let file = house.server.folder().join("lake").join(part);
    let mut bytes = std::fs::read(&file).expect("the object is a file");
    bytes[100] ^= 1;
    std::fs::write(&file, bytes).expect("the file is written");
    let failure = house
        .query("select count(*) from pins")
        .await
        .expect_err("the part was changed");
    assert!(
        failure.message.contains("was changed after it was written"),
        "{failure}"
    );
    let failure = house
        .clean("s3://lake/landing/pins/_manifests/absent.json")
        .await
        .expect_err("there is no manifest");
    assert_eq!(failure.class, FailureClass::Permanent);
}

fn report_with(params: Value) -> Value {
    json!({
        "reports": [
            { "name": "posts_by_category", "title": "Posts by category", "sql": "reports/posts_by_category.sql" },
            { "name": "media_types", "title": "Media types", "sql": "reports/media_types.sql" },
        ],
        "datasets": { "pins": "s3://lake/clean/pins/" },
        "params": params,
        "to": "s3://lake/reports/",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_shipped_reports_are_right_and_kept_per_run() {
    let house = House::new().await;
    let landed = house.land("0123456789abcdef", 0, &demo(), 100).await;
    house
        .clean(&landed)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    let output = run(
        &Report::new(house.store.clone(), dags()),
        report_with(json!({ "min_followers": 0 })),
    )
    .await
    .unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(output["reports"], 2);
    let files: Vec<&str> = output["files"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(files.len(), 8);
    assert_eq!(
        files[0],
        "s3://lake/reports/posts_by_category/20260101T020000Z-r7/posts_by_category.csv"
    );

    let text = async |key: &str| {
        let body = house
            .store
            .get(&Location::new("lake", key))
            .await
            .expect("the report exists");
        String::from_utf8(body.to_vec()).expect("UTF-8")
    };
    let csv = text("reports/posts_by_category/20260101T020000Z-r7/posts_by_category.csv").await;
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 14);
    assert_eq!(lines[0], "category,posts,median_followers");
    assert!(lines[1].starts_with("art,24,"), "{csv}");
    // Ties are in the order of their names.
    let order: Vec<&str> = lines[2..7]
        .iter()
        .filter_map(|line| line.split(',').next())
        .collect();
    assert_eq!(
        order,
        ["diy-and-crafts", "quotes", "christmas", "travel", "beauty"]
    );

    let media: Value = serde_json::from_str(
        &text("reports/media_types/20260101T020000Z-r7/media_types.json").await,
    )
    .expect("JSON");
    assert_eq!(
        media["rows"],
        json!([
            { "media": "image", "posts": 180, "percent": 90.0 },
            { "media": "multi-video", "posts": 13, "percent": 6.5 },
            { "media": "video", "posts": 7, "percent": 3.5 },
        ])
    );
    let page = text("reports/media_types/20260101T020000Z-r7/media_types.html").await;
    assert!(
        page.contains("<svg") && page.contains("multi-video") && !page.contains("<script"),
        "{page}"
    );

    let medians = house
        .query("select category, median(follower_count) as m from pins group by category")
        .await
        .expect("the query runs");
    assert_eq!(medians.len(), 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_sql_file_is_a_clear_failure() {
    let house = House::new().await;
    let with = json!({ "sql": "reports/absent.sql", "datasets": {}, "to": "s3://lake/reports/" });
    let failure = run(&Report::new(house.store.clone(), dags()), with)
        .await
        .expect_err("there is no such file");
    assert!(
        failure.class == FailureClass::Permanent && failure.message.contains("reports/absent.sql"),
        "{failure}"
    );
}
