//! Postgres is away while pages are asked: they say so, and are there again when it is back.

use pinwheel_test_support::{postgres::Postgres, proxy::Proxy};
use reqwest::StatusCode;
use serde_json::Value;

use crate::{
    harness::fresh_directory,
    process::{Process, eventually},
};

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
        let (_, place) = database.split_once('@').expect("a URL with a user");
        let (address, database) = place.split_once('/').expect("a URL with a database");
        let proxy = Proxy::start(address.parse().expect("an address")).await;
        let folder = fresh_directory(name);
        let environment = [
            (
                "PINWHEEL_DATABASE_URL",
                format!("postgres://postgres@{}/{database}", proxy.address()),
            ),
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
