//! `hbase_put` against a stand-in, for faults that cannot be had on demand; `tests/real` has a real HBase.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, put},
};
use pinwheel_tasks::{FailureClass, HbasePut, Kind, s3::ObjectStore};
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
