//! `hbase_put`: against a stand-in for faults that cannot be had on demand, and against a real HBase (`make test-real`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, put},
};
use pinwheel_tasks::{FailureClass, HbasePut, Kind, s3::ObjectStore};
use pinwheel_test_support::hbase::HBase;
use serde_json::{Value, json};

use crate::{
    cleaned::{Lake, key, pins},
    world::{World, output, table},
};

/// What the stand-in does with a request that writes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// It never answers.
    Silence,
    /// It stores and never answers.
    SilenceAfterwards,
    Status(u16),
}

/// A gateway that does what the test says. It has the table when `families` are given.
#[derive(Default)]
struct StandIn {
    families: Mutex<Option<Vec<&'static str>>>,
    /// The fault of each request in turn; after the last there is none.
    faults: Mutex<Vec<Fault>>,
    /// Requests whose rows include this key are refused with 400.
    refused: Option<String>,
    /// How often each row was stored, by its key.
    stored: Mutex<BTreeMap<String, u32>>,
    created: Mutex<u32>,
}

impl StandIn {
    async fn serve(self) -> (Arc<Self>, String) {
        let shared = Arc::new(self);
        let app = Router::new()
            .route("/{table}/schema", get(schema).post(create))
            .route("/{table}/rows", put(write))
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (shared, url)
    }
}

async fn schema(State(this): State<Arc<StandIn>>) -> (StatusCode, String) {
    match &*this.families.lock().unwrap() {
        None => (StatusCode::NOT_FOUND, "Not found\r\n".to_owned()),
        Some(families) => {
            let families: Vec<Value> = families.iter().map(|name| json!({"name": name})).collect();
            (
                StatusCode::OK,
                json!({"name": "t", "ColumnSchema": families}).to_string(),
            )
        }
    }
}

async fn create(State(this): State<Arc<StandIn>>, _: Path<String>) -> StatusCode {
    *this.families.lock().unwrap() = Some(vec!["cf"]);
    *this.created.lock().unwrap() += 1;
    StatusCode::CREATED
}

async fn write(State(this): State<Arc<StandIn>>, body: Bytes) -> (StatusCode, &'static str) {
    let fault = {
        let mut faults = this.faults.lock().unwrap();
        if faults.is_empty() {
            Fault::None
        } else {
            faults.remove(0)
        }
    };
    let rows = rows(&body);
    if let Some(refused) = &this.refused
        && rows.contains(refused)
    {
        return (
            StatusCode::BAD_REQUEST,
            "Bad request\r\njava.lang.IllegalArgumentException",
        );
    }
    let keep = || {
        let mut stored = this.stored.lock().unwrap();
        for row in &rows {
            *stored.entry(row.clone()).or_default() += 1;
        }
    };
    match fault {
        Fault::None => keep(),
        Fault::Silence => std::future::pending().await,
        Fault::SilenceAfterwards => {
            keep();
            std::future::pending().await
        }
        Fault::Status(status) => {
            return (
                StatusCode::from_u16(status).unwrap(),
                "Unavailable\r\njava.io.IOException: busy",
            );
        }
    }
    (StatusCode::OK, "")
}

/// The keys of the rows of a `CellSet`.
fn rows(mut message: &[u8]) -> Vec<String> {
    fn field<'m>(message: &mut &'m [u8]) -> &'m [u8] {
        let (mut length, mut shift) = (0_usize, 0);
        *message = &message[1..];
        loop {
            let byte = message[0];
            *message = &message[1..];
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        let (value, rest) = message.split_at(length);
        *message = rest;
        value
    }
    let mut keys = Vec::new();
    while !message.is_empty() {
        let mut row = field(&mut message);
        keys.push(String::from_utf8(field(&mut row).to_vec()).unwrap());
    }
    keys
}

fn kind(store: &ObjectStore) -> HbasePut {
    HbasePut::new(store.clone())
}

fn with(from: &str, url: &str) -> Value {
    json!({"from": from, "url": url, "batch_rows": 10, "request_timeout": "5s"})
}

#[tokio::test]
async fn a_gateway_that_is_silent_or_busy_is_asked_again_until_every_row_is_acknowledged() {
    let lake = Lake::new().await;
    let from = lake.clean("p", 0, &pins(95)).await;
    let faults = [
        Fault::Status(503),
        Fault::SilenceAfterwards,
        Fault::Silence,
        Fault::Status(500),
        Fault::Status(504),
    ];
    let gateway = StandIn {
        faults: Mutex::new(faults.to_vec()),
        ..StandIn::default()
    };
    let (gateway, url) = gateway.serve().await;
    let world = World::new();
    let done = output(world.run(&kind(&lake.store), with(&from, &url)).await);
    assert_eq!(
        (
            &done["rows"],
            &done["requests"],
            &done["repeated"],
            &done["created"]
        ),
        (&json!(95), &json!(10), &json!(5), &json!(true)),
        "{done}"
    );
    let stored = gateway.stored.lock().unwrap();
    let keys: BTreeSet<&String> = stored.keys().collect();
    let wanted: Vec<String> = (0..95).map(key).collect();
    assert_eq!(keys, wanted.iter().collect());
    // The one batch that was stored and not acknowledged.
    assert_eq!(stored.values().sum::<u32>(), 105);
    let said = world.said.lock().unwrap().join("\n");
    assert!(
        said.contains("it answers 503: java.io.IOException: busy"),
        "{said}"
    );
}

#[tokio::test]
async fn a_request_that_is_refused_fails_the_try_and_names_its_rows() {
    let lake = Lake::new().await;
    let from = lake.clean("p", 0, &pins(40)).await;
    let gateway = StandIn {
        families: Mutex::new(Some(vec!["other", "cf"])),
        refused: Some(key(15)),
        ..StandIn::default()
    };
    let (gateway, url) = gateway.serve().await;
    let mut with = with(&from, &url);
    with["connections"] = json!(1);
    let failure = World::new()
        .run(&kind(&lake.store), with)
        .await
        .unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
    let stored = gateway.stored.lock().unwrap();
    let begin = format!(
        "{} of 40 rows are stored in table `pinterest_table`; not acknowledged are 10 rows from row {} (`",
        stored.len(),
        stored.len() + 1
    );
    assert!(failure.message.starts_with(&begin), "{failure}");
    assert!(
        failure.message.contains("`) of `s3://lake/clean/pins/"),
        "{failure}"
    );
    assert!(
        failure
            .message
            .ends_with("answers 400 Bad Request: java.lang.IllegalArgumentException"),
        "{failure}"
    );
    assert!(!stored.contains_key(&key(15)));
    assert_eq!(*gateway.created.lock().unwrap(), 0);
}

#[tokio::test]
async fn patience_ends_and_says_what_is_stored() {
    let lake = Lake::new().await;
    let from = lake.clean("p", 0, &pins(30)).await;
    let gateway = StandIn {
        families: Mutex::new(Some(vec!["cf"])),
        faults: Mutex::new([vec![Fault::None], vec![Fault::Status(503); 100]].concat()),
        ..StandIn::default()
    };
    let (_gateway, url) = gateway.serve().await;
    let mut with = with(&from, &url);
    with["connections"] = json!(1);
    with["patience"] = json!("1s");
    let failure = World::new()
        .run(&kind(&lake.store), with)
        .await
        .unwrap_err();
    assert_eq!(failure.class, FailureClass::Retryable);
    assert!(failure.message.starts_with("10 of 30 rows are stored in table `pinterest_table`; not acknowledged are 10 rows from row 11"), "{failure}");
    assert!(failure.message.contains("has been away for"), "{failure}");
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_retryable_and_named() {
    let lake = Lake::new().await;
    let from = lake.clean("p", 0, &pins(1)).await;
    let mut with = with(&from, "http://user:hunter2@127.0.0.1:1");
    with["patience"] = json!("1s");
    let failure = World::new()
        .run(&kind(&lake.store), with)
        .await
        .unwrap_err();
    assert_eq!(failure.class, FailureClass::Retryable);
    assert!(
        failure
            .message
            .contains("HBase at http://127.0.0.1:1 has been away"),
        "{failure}"
    );
    assert!(!failure.message.contains("hunter2"), "{failure}");
}

#[tokio::test]
async fn a_table_that_lacks_the_family_is_left_as_it_is() {
    let lake = Lake::new().await;
    let from = lake.clean("p", 0, &pins(1)).await;
    let gateway = StandIn {
        families: Mutex::new(Some(vec!["other"])),
        ..StandIn::default()
    };
    let (gateway, url) = gateway.serve().await;
    let failure = World::new()
        .run(&kind(&lake.store), with(&from, &url))
        .await
        .unwrap_err();
    assert_eq!(
        failure.message,
        "table `pinterest_table` has no column family `cf`"
    );
    assert!(failure.hint.unwrap().starts_with("its families are other"));
    assert_eq!(*gateway.created.lock().unwrap(), 0);
    assert!(gateway.stored.lock().unwrap().is_empty());
}

#[tokio::test]
async fn mistakes_are_found_when_the_file_is_read_or_named_when_it_runs() {
    let lake = Lake::new().await;
    let kind = kind(&lake.store);
    let found = |with: Value| -> Vec<String> {
        let problems = kind.check(&table(with)).into_iter();
        problems
            .map(|problem| format!("{}: {}", problem.field.unwrap_or_default(), problem.message))
            .collect()
    };
    assert_eq!(
        found(json!({
            "from": "lake/x", "url": "hbase:8080", "table": "a b", "columns": {"f:": "title"}, "connections": 65,
            "timestamps": "mine",
        })),
        [
            "from: expected `s3://bucket/key`, found `lake/x`",
            "url: `url` is no address of an HBase REST gateway",
            "timestamps: `timestamps` is `mine`",
            "connections: `connections` is 65, expected 1 to 64",
            "table: `a b` is no name of an HBase table",
            "columns: `f:` is no column of HBase",
        ]
    );
    assert_eq!(
        found(json!({"from": "{{ outputs.clean.manifest }}"})),
        [": neither `connection` nor `url` is given"]
    );
    let from = lake.clean("p", 0, &pins(1)).await;
    let with = json!({"from": from, "url": "http://127.0.0.1:1", "columns": {"a": "titel"}});
    let failure = World::new().run(&kind, with).await.unwrap_err();
    assert_eq!(
        failure.message,
        "`columns` names the column `titel`, which dataset `pins` does not have"
    );
    assert!(failure.hint.unwrap().contains("title"));
}

/// All rows of a real table: column and value by row.
async fn read_back(hbase: &HBase, table: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let plain =
        |text: &Value| String::from_utf8(STANDARD.decode(text.as_str().unwrap()).unwrap()).unwrap();
    let client = reqwest::Client::new();
    let answer = client
        .get(format!("{}/{table}/*", hbase.url()))
        .header("accept", "application/json")
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    let body = answer.bytes().await.unwrap();
    let found: Value = serde_json::from_slice(&body).unwrap();
    found["Row"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let cells = row["Cell"].as_array().unwrap().iter();
            let cells = cells.map(|cell| (plain(&cell["column"]), plain(&cell["$"])));
            (plain(&row["key"]), cells.collect())
        })
        .collect()
}

async fn start() -> HBase {
    tokio::task::spawn_blocking(HBase::start).await.unwrap()
}

#[tokio::test]
#[ignore = "needs HBase: `make test-real`"]
async fn a_real_hbase_holds_every_row_as_text_and_the_latest_message_wins() {
    let lake = Lake::new().await;
    let hbase = start().await;
    let put = async |from: &str, more: Value| {
        let mut with = json!({"from": from, "url": hbase.url()});
        for (name, value) in table(more) {
            with[name] = value;
        }
        output(World::new().run(&kind(&lake.store), with).await)
    };
    let mut first = pins(1_200);
    first[7]["description"] = json!("No description available");
    let older = lake.clean("older", 0, &first).await;
    let done = put(&older, json!({})).await;
    assert_eq!(
        (&done["rows"], &done["created"], &done["requests"]),
        (&json!(1_200), &json!(true), &json!(3)),
        "{done}"
    );
    assert_eq!(done["cells"], 12_000 - 1);
    let found = read_back(&hbase, "pinterest_table").await;
    assert_eq!(found.len(), 1_200);
    let expected: BTreeMap<String, String> = [
        ("cf:category", "diy-and-crafts"),
        ("cf:title", "25 Súper \"Fun\" Summer\tCrafts, number 42"),
        ("cf:followers_count", "124000"),
        ("cf:index", "42"),
        (
            "cf:tag_list",
            "Summer Crafts For Kids,Fun Crafts For Kids,Summer Kids,Toddler Crafts",
        ),
        (
            "cf:description",
            "Keep the kids busy this summer with these easy diy crafts and projects. Creative and…",
        ),
        ("cf:downloaded", "true"),
        ("cf:is_image_or_video", "image"),
        (
            "cf:image_src",
            "https://i.pinimg.com/originals/b3/bc/e2/b3bce2964e8c8975387b39660eed5f16.jpg",
        ),
        ("cf:save_location", "/data/diy-and-crafts"),
    ]
    .map(|(column, value)| (column.to_owned(), value.to_owned()))
    .into();
    assert_eq!(found[&key(42)], expected);
    assert!(!found[&key(7)].contains_key("cf:description"));

    // A later message of one pin; then the older partition again, which hides nothing.
    let mut second = pins(1);
    second[0]["title"] = json!("a newer title");
    let newer = lake.clean("newer", 5_000, &second).await;
    assert_eq!(put(&newer, json!({})).await["created"], false);
    let again = put(&older, json!({"connections": 1, "batch_rows": 100})).await;
    assert_eq!(again["rows"], 1_200);
    let after = read_back(&hbase, "pinterest_table").await;
    assert_eq!(after[&key(0)]["cf:title"], "a newer title");
    assert_eq!(after[&key(42)], expected);
    assert_eq!(after.len(), 1_200);

    // Another table, key, family and mapping.
    let mapped = json!({
        "table": "default:by_index", "row_key": "index", "family": "m", "null_as": "-",
        "columns": {"id": "unique_id", "n:about": "description", "tags": "tag_list"}, "separator": " | ",
    });
    // A table has the families that its first columns name.
    put(&older, mapped.clone()).await;
    put(&older, mapped).await;
    let found = read_back(&hbase, "by_index").await;
    assert_eq!(found.len(), 1_200);
    assert_eq!(found["7"]["n:about"], "-");
    assert_eq!(found["7"]["m:id"], key(7));
    assert_eq!(
        found["7"]["m:tags"],
        "Summer Crafts For Kids | Fun Crafts For Kids | Summer Kids | Toddler Crafts"
    );
}

#[tokio::test]
#[ignore = "needs HBase: `make test-real`"]
async fn a_real_hbase_that_is_killed_under_load_loses_no_row() {
    const ROWS: usize = 60_000;
    let lake = Lake::new().await;
    let mut hbase = start().await;
    let from = lake.clean("p", 0, &pins(ROWS)).await;
    let world = World::new();
    let with =
        json!({"from": from, "url": hbase.url(), "request_timeout": "10s", "patience": "5m"});
    let writing = {
        let (world, store) = (world.clone(), lake.store.clone());
        tokio::spawn(async move { world.run(&kind(&store), with).await })
    };
    // Once it writes, first the master dies and then the gateway.
    let said = async |words: &str| {
        while !world.said.lock().unwrap().join("\n").contains(words) {
            assert!(
                !writing.is_finished(),
                "it ended before anything was killed"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    said("writing 60000 rows").await;
    hbase.kill_master();
    said("cannot write rows into table `pinterest_table` yet").await;
    hbase.kill_gateway();
    hbase.start_master();
    hbase.start_gateway();
    let done = output(writing.await.unwrap());
    assert_eq!(done["rows"], ROWS);
    assert!(done["repeated"].as_u64().unwrap() > 0, "{done}");
    let found = read_back(&hbase, "pinterest_table").await;
    assert_eq!(found.len(), ROWS);
    assert!(found.values().all(|cells| cells.len() == 10));
}

#[tokio::test]
#[ignore = "a measurement: `make test-real`"]
async fn the_rate_into_a_real_hbase_is_told() {
    const ROWS: usize = 200_000;
    let lake = Lake::new().await;
    let hbase = start().await;
    let from = lake.clean("p", 0, &pins(ROWS)).await;
    for connections in [1, 2, 4, 8] {
        let with = json!({"from": from, "url": hbase.url(), "table": format!("t{connections}"), "connections": connections});
        let done = output(World::new().run(&kind(&lake.store), with).await);
        assert_eq!(done["rows"], ROWS);
        println!("{connections} connections: {} rows/s", done["rows_per_s"]);
    }
}
