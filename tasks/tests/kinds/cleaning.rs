//! The kind `clean` against an S3 server: what a contract says of rows, and memory that does not grow with their number.

use std::{collections::BTreeMap, fmt::Write, process::Command, sync::Arc};

use chrono::{DateTime, TimeZone, Utc};
use pinwheel_tasks::{
    Clean, Failure, FailureClass,
    dataset::Catalog,
    lake::{self, Partition},
    landing::{
        LandedObject, LandedRange, Manifest,
        columns::{self, Columns, Record},
        manifest_key, object_key,
    },
    s3::{Location, ObjectStore, sha256},
};
use pinwheel_test_support::{once, s3::S3};
use serde_json::{Value, json};

const CONTRACT: &str = r#"
id = "orders"
key = "id"

[[fields]]
name = "id"
type = "text"
nullable = false

[[fields]]
name = "price"
type = "float"

[[fields]]
name = "ordered"
type = "timestamp"
missing = "quarantine"

[[fields]]
name = "note"
type = "text"
missing = "null"

[[expectations]]
name = "a_price"
column = "price"
min = 0
severity = "quarantine"

[[expectations]]
name = "short_note"
column = "note"
max_length = 5
severity = "warn"

[[expectations]]
name = "this_century"
column = "ordered"
min = 2000-01-01
severity = "fail"
"#;

/// A store, and landings in it.
struct House {
    store: ObjectStore,
    _server: S3,
}

/// What is landed as one object: the Kafka partition, the first offset, and the messages.
type Chunk = (i32, i64, Vec<Vec<u8>>);

impl House {
    async fn new() -> Self {
        let server = S3::start().await;
        let store = ObjectStore::connect(server.settings()).await;
        store
            .ensure_bucket("lake")
            .await
            .expect("the bucket can be made");
        Self {
            store,
            _server: server,
        }
    }

    /// Lands chunks as `kafka_to_s3` does, and gives the manifest's address.
    async fn land(&self, plan: &str, chunks: impl Iterator<Item = Chunk>) -> String {
        let mut objects = Vec::new();
        let mut ranges: BTreeMap<i32, LandedRange> = BTreeMap::new();
        for (partition, first, messages) in chunks {
            let mut records = Columns::default();
            for (offset, message) in (first..).zip(&messages) {
                records.push(&Record {
                    offset,
                    timestamp: Some(1_767_225_600_000),
                    key: None,
                    value: Some(message),
                    headers: Vec::new(),
                });
            }
            let count = messages.len() as u64;
            let end = first + i64::try_from(count).expect("few messages");
            let body = columns::encode(records.finish().expect("the records form a frame"))
                .expect("the frame is written");
            let key = object_key("landing", date(), "orders", partition, first, end - 1);
            let object = LandedObject {
                key,
                partition,
                first_offset: first,
                last_offset: end - 1,
                records: count,
                bytes: body.len() as u64,
                sha256: sha256(&body),
            };
            self.store
                .put_if_absent(&Location::new("lake", &object.key), body.into())
                .await
                .expect("the object is written");
            objects.push(object);
            let range = ranges.entry(partition).or_insert(LandedRange {
                partition,
                start: first,
                end,
                records: 0,
            });
            range.end = end;
            range.records += count;
        }
        let ranges = ranges.into_values().collect();
        let manifest = Manifest::new("orders", plan, date(), ranges, objects);
        let at = Location::new("lake", manifest_key("landing", date(), plan));
        self.store
            .put(&at, manifest.to_json().into(), "application/json")
            .await
            .expect("the manifest is written");
        at.to_string()
    }

    async fn clean(&self, from: &str, memory_mb: u64) -> Result<Value, Failure> {
        let catalog = Catalog::from_files([("orders.toml", CONTRACT.as_bytes())])
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        let kind = Clean::new(self.store.clone(), Arc::new(catalog));
        let with = json!({ "dataset": "orders", "from": from, "to": "s3://lake/clean/orders", "memory_mb": memory_mb });
        once::run(&kind, 7, (date(), date()), with).await
    }

    async fn partition(&self, output: &Value) -> Partition {
        let at: Location = output["manifest"]
            .as_str()
            .and_then(|at| at.parse().ok())
            .expect("an address");
        Partition::from_json(&self.store.get(&at).await.expect("the manifest exists"))
            .expect("it is a manifest")
    }
}

fn date() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 1, 2, 0, 0)
        .single()
        .expect("a date")
}

fn order(id: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut order =
        json!({ "id": id, "price": 1.5, "ordered": "2020-08-28T03:52:47Z", "note": null });
    change(&mut order);
    order.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_held_against_what_is_expected_of_them_and_new_fields_are_told() {
    let house = House::new().await;
    let messages = vec![
        order("good", |_| {}),
        order("dear", |order| order["price"] = json!(-1)),
        order("long", |order| order["note"] = json!("six letters")),
        order("undated", |order| {
            order.as_object_mut().expect("an object").remove("ordered");
        }),
        order("unnoted", |order| {
            order.as_object_mut().expect("an object").remove("note");
        }),
        order("new", |order| order["colour"] = json!("red")),
        order("newer", |order| order["colour"] = json!({ "red": 1 })),
    ];
    let from = house
        .land("aaaaaaaaaaaa", [(0, 0, messages)].into_iter())
        .await;
    let output = house
        .clean(&from, 16)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    let count = |name: &str| output[name].as_u64();
    assert_eq!(
        (
            count("cleaned"),
            count("quarantined"),
            count("dead_lettered")
        ),
        (Some(5), Some(2), Some(0)),
        "{output}"
    );
    assert_eq!(
        output["rules"],
        json!({
            "expectation:a_price": 1, "expectation:short_note": 1, "extra": 2,
            "missing:note": 1, "missing_field:ordered": 1,
        })
    );
    assert_eq!(output["new_fields"], json!({ "colour": 2 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_row_that_may_not_be_fails_the_batch_and_is_kept() {
    let house = House::new().await;
    let messages = vec![
        order("good", |_| {}),
        order("old", |order| {
            order["ordered"] = json!("1999-12-31 23:59:59")
        }),
    ];
    let from = house
        .land("aaaaaaaaaaaa", [(0, 0, messages)].into_iter())
        .await;
    let failure = house
        .clean(&from, 16)
        .await
        .expect_err("the row is older than the contract allows");
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(
        failure.message.contains("`expectation:this_century` (1)"),
        "{failure}"
    );
    let list = async |prefix: &str| {
        house
            .store
            .list(&Location::new("lake", prefix))
            .await
            .expect("the store answers")
    };
    assert_eq!(list("clean/orders/_dead_letters/").await.len(), 1);
    assert!(list("clean/orders/_manifests/").await.is_empty());
}

/// Chunks of 10,000 orders of about 600 bytes, over two Kafka partitions; in every chunk a fifth of the keys comes once more.
fn volume(chunks: i64) -> impl Iterator<Item = Chunk> {
    (0..chunks).map(|chunk| {
        let messages = (0..10_000_i64).map(|row| {
            // Every fifth row repeats the key of the one before.
            let id = chunk * 10_000 + row - i64::from(row % 5 == 4);
            let mut padding = String::new();
            for word in 0..30 {
                let _ = write!(
                    padding,
                    "{:016x}",
                    (id * 31 + word).wrapping_mul(0x9E37_79B9_7F4A_7C15_u64.cast_signed())
                );
            }
            order(&format!("order-{id:012}"), |order| {
                order["note"] = json!(padding)
            })
        });
        let partition = i32::from(chunk % 2 == 1);
        (partition, chunk / 2 * 10_000, messages.collect())
    })
}

/// The most memory that the process has had so far, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("the kernel counts it");
    let kilobytes = line.trim().trim_end_matches(" kB");
    kilobytes.trim().parse::<u64>().expect("a number") * 1024
}

/// What a process of its own is told: to measure itself.
const ALONE: &str = "PINWHEEL_TEST_MEMORY_ALONE";

/// The kernel counts the memory of a process, and other tests share this one: a process of its own is measured.
#[test]
fn memory_does_not_grow_with_the_number_of_rows() {
    if std::env::var_os(ALONE).is_some() {
        return tokio::runtime::Runtime::new()
            .expect("threads can be had")
            .block_on(cleaned_in_bounded_memory());
    }
    let program = std::env::current_exe().expect("a test knows its binary");
    let (_, module) = module_path!()
        .split_once("::")
        .expect("a module of the binary");
    let test = format!("{module}::memory_does_not_grow_with_the_number_of_rows");
    let done = Command::new(program)
        .args(["--exact", &test, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .expect("a test can start itself");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

async fn cleaned_in_bounded_memory() {
    let house = House::new().await;
    let small = house.land("aaaaaaaaaaaa", volume(10)).await;
    let output = house
        .clean(&small, 16)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(
        (output["cleaned"].as_u64(), output["duplicates"].as_u64()),
        (Some(80_000), Some(20_000))
    );
    let before = peak();

    let large = house.land("bbbbbbbbbbbb", volume(50)).await;
    let output = house
        .clean(&large, 16)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(
        (output["cleaned"].as_u64(), output["duplicates"].as_u64()),
        (Some(400_000), Some(100_000))
    );
    // 400,000 more messages of 600 bytes are 240 MB, and their rows as many once more.
    let grown = peak() - before;
    println!("grown by {grown} bytes");
    assert!(grown < 100 << 20, "{grown} bytes more");

    // Whatever waited where: with memory for all rows they are the same.
    let partition = house.partition(&output).await;
    let in_memory = house
        .clean(&large, 16_384)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    let in_memory = house.partition(&in_memory).await;
    assert!(partition.parts.len() > in_memory.parts.len());
    assert_eq!(partition.counts, in_memory.counts);
    let rows = lake::scan(&house.store, &Location::new("lake", "clean/orders/"))
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    let rows = tokio::task::spawn_blocking(move || rows.collect())
        .await
        .expect("it does not panic")
        .expect("the rows are read");
    assert_eq!(rows.height(), 400_000);
}
