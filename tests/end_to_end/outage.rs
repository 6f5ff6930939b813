//! Postgres is away while pages are asked: they say so, and are there again when it is back. And a process that loses it
//! while it starts waits for it.

use std::fs;

use pinwheel_scheduler::store::Store;
use pinwheel_test_support::{postgres::Postgres, proxy::Proxy};
use reqwest::StatusCode;
use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection};

use crate::{
    harness::fresh_directory,
    process::{Process, eventually},
};

/// A proxy before a database, and the URL that leads through it.
async fn behind_a_proxy(database: &str) -> (Proxy, String) {
    let (user, place) = database.split_once('@').expect("a URL with a user");
    let (address, name) = place.split_once('/').expect("a URL with a database");
    let proxy = Proxy::start(address.parse().expect("an address")).await;
    let url = format!("{user}@{}/{name}", proxy.address());
    (proxy, url)
}

/// The web role behind a proxy.
struct Web {
    _process: Process,
    proxy: Proxy,
    address: String,
    client: reqwest::Client,
}

impl Web {
    async fn start(name: &str) -> Self {
        let database = Postgres::shared().empty_database().await;
        let (proxy, url) = behind_a_proxy(&database).await;
        let folder = fresh_directory(name);
        let environment = [
            ("PINWHEEL_DATABASE_URL", url),
            ("PINWHEEL_WEB_BIND", "127.0.0.1:0".to_owned()),
        ];
        let mut process = Process::start(&["web"], &environment, &folder, folder.join("log"));
        let line = process.ready().await;
        let (_, address) = line.split_once(" ready: ").expect("it is that line");
        Self {
            _process: process,
            proxy,
            address: address.to_owned(),
            client: reqwest::Client::new(),
        }
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = self
            .client
            .get(format!("{}{path}", self.address))
            .send()
            .await
            .expect("the web role lives");
        let status = answer.status();
        (status, answer.text().await.expect("pages are text"))
    }

    /// The first answers may still come by a connection that was cut.
    async fn is_back(&self) {
        for path in ["/", "/dags", "/api/v1/dags", "/readyz"] {
            eventually("the page is back", async || {
                (self.get(path).await.0 == StatusCode::OK).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn pages_say_that_postgres_is_away_and_come_back_with_it() {
    let web = Web::start("outage-cut").await;
    web.is_back().await;
    web.proxy.refuse();

    for path in ["/", "/dags", "/runs"] {
        let (status, page) = web.get(path).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {page}");
        assert!(
            page.contains("Postgres cannot be reached"),
            "{path}: {page}"
        );
    }
    let (status, problem) = web.get("/api/v1/dags").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    let problem: Value = serde_json::from_str(&problem).expect("problem+json");
    assert_eq!(problem["title"], "Postgres cannot be reached");
    let (status, readiness) = web.get("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{readiness}");
    assert_eq!(web.get("/healthz").await.0, StatusCode::OK);

    web.proxy.heal();
    web.is_back().await;
}

#[tokio::test]
async fn pages_do_not_wait_for_ever_for_a_postgres_that_says_nothing() {
    let web = Web::start("outage-silent").await;
    web.is_back().await;
    web.proxy.stall();

    let (page, readiness) = tokio::join!(web.get("/dags"), web.get("/readyz"));
    for (status, answer) in [page, readiness] {
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    }
    assert_eq!(web.get("/healthz").await.0, StatusCode::OK);

    web.proxy.heal();
    web.is_back().await;
}

#[tokio::test]
async fn a_scheduler_that_loses_postgres_while_it_starts_waits_for_it() {
    let database = Postgres::shared().empty_database().await;
    let store = Store::connect(&database).await.expect("Postgres is there");
    store.migrate().await.expect("the database is empty");
    // A scheduler writes here once it has seen that Postgres is there.
    let mut gate = PgConnection::connect(&database)
        .await
        .expect("Postgres is there");
    gate.execute("begin; lock table watch")
        .await
        .expect("nobody else has it");
    let (proxy, url) = behind_a_proxy(&database).await;
    let folder = fresh_directory("outage-start");
    let dags = folder.join("dags");
    fs::create_dir(&dags).expect("the folder is new");
    let environment = [
        ("PINWHEEL_DATABASE_URL", url),
        ("PINWHEEL_DAGS_FOLDER", dags.display().to_string()),
    ];
    let mut process = Process::start(&["scheduler"], &environment, &folder, folder.join("log"));
    eventually("the scheduler stands before the gate", async || {
        // Databases of one Postgres may have tables of the same number.
        let waiting =
            "select count(*) from pg_locks where not granted and relation = 'watch'::regclass
            and database = (select oid from pg_database where datname = current_database())";
        let waiting: i64 = sqlx::query_scalar(waiting)
            .fetch_one(&mut gate)
            .await
            .expect("the statement is valid");
        (waiting > 0).then_some(())
    })
    .await;

    proxy.refuse();
    gate.execute("rollback").await.expect("it has begun");
    eventually("it comes again", async || {
        let ended = process.ended();
        assert_eq!(ended, None, "{}", process.said());
        (proxy.counts().refused > 0).then_some(())
    })
    .await;
    proxy.heal();
    process.ready().await;
}
