//! The ingest API over real HTTP. The broker is librdkafka's mock, which is no broker for data but injects errors; that
//! the bytes arrive is proved end to end.

use std::{collections::BTreeMap, io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use pinwheel_tasks::KafkaSettings;
use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use reqwest::{Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Error, Ingest, IngestOptions};

type Mock = MockCluster<'static, DefaultProducerContext>;

fn mock() -> Mock {
    let mock = MockCluster::new(1).expect("a mock cluster");
    mock.create_topic("pins", 3, 1).expect("a topic");
    mock
}

struct Server {
    url: String,
    client: reqwest::Client,
    stop: CancellationToken,
    running: JoinHandle<Result<(), Error>>,
}

impl Server {
    async fn start(brokers: String, change: impl FnOnce(&mut IngestOptions)) -> Self {
        let settings = KafkaSettings {
            brokers,
            properties: BTreeMap::new(),
        };
        let mut options =
            IngestOptions::new("127.0.0.1:0".parse().expect("an address"), settings, "pins");
        change(&mut options);
        let ingest = Ingest::bind(options).await.expect("bound");
        let url = format!("http://{}", ingest.address());
        let stop = CancellationToken::new();
        let running = tokio::spawn(ingest.run(stop.clone()));
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client");
        Self {
            url,
            client,
            stop,
            running,
        }
    }

    async fn ready(brokers: String, change: impl FnOnce(&mut IngestOptions)) -> Self {
        let server = Self::start(brokers, change).await;
        server.until(StatusCode::OK).await;
        server
    }

    /// Asks `/readyz` until it gives the status. Each answer takes the way through the server, so this is no blind wait.
    async fn until(&self, status: StatusCode) {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while self.get("/readyz").await.status() != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        waited.await.expect("the health changes within 20 seconds");
    }

    async fn get(&self, path: &str) -> Response {
        self.client
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .expect("an answer")
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.client
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .expect("an answer")
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.expect("no panic").expect("a clean end");
    }
}

impl Server {
    async fn post_as(
        &self,
        encoding: &str,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> Response {
        self.client
            .post(format!("{}{path}", self.url))
            .header(header::CONTENT_ENCODING, encoding)
            .body(body)
            .send()
            .await
            .expect("an answer")
    }
}

fn gzip(body: impl AsRef<[u8]>) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(body.as_ref()).expect("memory");
    gzip.finish().expect("memory")
}

fn pin() -> &'static str {
    include_str!("../../../data/pins.ndjson")
        .lines()
        .nth(1)
        .expect("a line")
}

async fn body(response: Response) -> Value {
    response.json().await.expect("a JSON body")
}

#[tokio::test]
async fn an_accepted_post_answers_where_it_is() {
    let mock = mock();
    let server = Server::ready(mock.bootstrap_servers(), |_| {}).await;
    for path in ["/pin/", "/pin"] {
        let response = server.post(path, pin()).await;
        assert_eq!(response.status(), StatusCode::OK);
        let place = body(response).await;
        assert_eq!(place["topic"], "pins");
        assert!(
            place["partition"].is_i64() && place["offset"].is_i64(),
            "{place}"
        );
    }
    let (first, second) = (
        body(server.post("/pin/", pin()).await).await,
        body(server.post("/pin/", pin()).await).await,
    );
    assert_eq!(
        first["partition"], second["partition"],
        "one key, one partition"
    );
    let metrics = server.get("/metrics").await.text().await.expect("text");
    assert!(
        metrics.contains("pinwheel_ingest_posts_total{result=\"accepted\"} 4"),
        "{metrics}"
    );
    assert_eq!(server.get("/healthz").await.status(), StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_post_names_every_field() {
    let mock = mock();
    let server = Server::ready(mock.bootstrap_servers(), |_| {}).await;
    let wrong = pin()
        .replace("\"index\": 2863", "\"index\": \"2863\"")
        .replace("\"category\"", "\"kategory\"");
    let response = server.post("/pin/", wrong).await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        body(response).await,
        json!({"detail": [
            {"type": "missing", "loc": ["body", "category"], "msg": "Field required"},
            {"type": "int_type", "loc": ["body", "index"], "msg": "Input should be a valid integer, found a string"},
        ]})
    );
    let response = server
        .post("/pin/", "{\"category\": \"art\",\n oops}")
        .await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let detail = body(response).await;
    assert_eq!(
        (
            &detail["detail"][0]["ctx"]["line"],
            &detail["detail"][0]["ctx"]["column"]
        ),
        (&json!(2), &json!(2))
    );
    server.stop().await;
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_announced_or_not() {
    let mock = mock();
    let server = Server::ready(mock.bootstrap_servers(), |options| {
        options.body_limit = 2048
    })
    .await;
    assert_eq!(
        server.post("/pin/", "x".repeat(2049)).await.status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
    // A hand-written request without Content-Length.
    let address = server.url.trim_start_matches("http://").to_owned();
    let mut connection = tokio::net::TcpStream::connect(&address)
        .await
        .expect("connected");
    let chunk = "x".repeat(3000);
    let request = format!(
        "POST /pin/ HTTP/1.1\r\nhost: {address}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{chunk}\r\n0\r\n\r\n",
        chunk.len()
    );
    tokio::io::AsyncWriteExt::write_all(&mut connection, request.as_bytes())
        .await
        .expect("written");
    let mut answer = vec![0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut connection, &mut answer)
        .await
        .expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 413");
    drop(connection);
    server.stop().await;
}

#[tokio::test]
async fn a_batch_answers_for_each_item() {
    let mock = mock();
    let server = Server::ready(mock.bootstrap_servers(), |_| {}).await;
    let lines = format!("{}\n{{\"index\": 1}}\n{}\n", pin(), pin());
    let response = server.post("/pins/", lines).await;
    assert_eq!(response.status(), StatusCode::MULTI_STATUS);
    let answer = body(response).await;
    assert_eq!(
        (
            &answer["accepted"],
            &answer["invalid"],
            &answer["unavailable"]
        ),
        (&json!(2), &json!(1), &json!(0))
    );
    let statuses: Vec<_> = answer["results"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|result| result["status"].clone())
        .collect();
    assert_eq!(statuses, [200, 422, 200]);
    assert_eq!(
        answer["results"][1]["detail"]
            .as_array()
            .expect("a list")
            .len(),
        8
    );
    let response = server
        .post("/pins/", format!("[{},{}]", pin(), pin()))
        .await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        server.post("/pins/", "").await.status(),
        StatusCode::UNPROCESSABLE_ENTITY
    );
    server.stop().await;
}

#[tokio::test]
async fn posts_are_refused_at_once_while_no_broker_answers() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    let server = Server::start(closed.to_string(), |_| {}).await;
    for path in ["/pin/", "/pins/"] {
        let asked = tokio::time::timeout(Duration::from_secs(2), server.post(path, pin()));
        let response = asked
            .await
            .expect("no post waits for a broker that is known to be away");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(header::RETRY_AFTER));
    }
    assert_eq!(
        server.get("/readyz").await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(server.get("/healthz").await.status(), StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn a_broker_that_goes_away_is_503_and_one_that_returns_is_used_again() {
    let mock = mock();
    let server = Server::ready(mock.bootstrap_servers(), |options| {
        options.delivery_timeout = Duration::from_secs(2)
    })
    .await;
    assert_eq!(server.post("/pin/", pin()).await.status(), StatusCode::OK);
    mock.broker_down(1).expect("down");
    let asked = tokio::time::timeout(Duration::from_secs(10), server.post("/pin/", pin()));
    let response = asked
        .await
        .expect("the wait is bounded by the delivery time-out");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    server.until(StatusCode::SERVICE_UNAVAILABLE).await;
    mock.broker_up(1).expect("up");
    server.until(StatusCode::OK).await;
    assert_eq!(server.post("/pin/", pin()).await.status(), StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn an_error_that_passes_is_not_seen_by_the_client() {
    let mock = mock();
    let server = Server::ready(mock.bootstrap_servers(), |_| {}).await;
    let not_leader = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
    mock.request_errors(RDKafkaApiKey::Produce, &[not_leader, not_leader]);
    assert_eq!(server.post("/pin/", pin()).await.status(), StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn a_full_queue_is_429_with_retry_after() {
    let mock = mock();
    let server = Server::ready(mock.bootstrap_servers(), |options| {
        options.queue_bytes = 1024
    })
    .await;
    // With the broker slow, one pin fills a queue of a kilobyte.
    mock.broker_round_trip_time(1, Duration::from_secs(3))
        .expect("slow");
    let (one, two, three) = tokio::join!(
        server.post("/pin/", pin()),
        server.post("/pin/", pin()),
        server.post("/pin/", pin())
    );
    let busy: Vec<_> = [one, two, three]
        .into_iter()
        .filter(|response| response.status() == StatusCode::TOO_MANY_REQUESTS)
        .collect();
    assert!(!busy.is_empty());
    assert!(
        busy.iter()
            .all(|response| response.headers().contains_key(header::RETRY_AFTER))
    );
    server.stop().await;
}

#[tokio::test]
async fn a_page_of_another_site_cannot_post() {
    let mock = mock();
    let server = Server::ready(mock.bootstrap_servers(), |_| {}).await;
    let post = |origin: String| {
        server
            .client
            .post(format!("{}/pin/", server.url))
            .header("origin", origin)
            .body(pin())
            .send()
    };
    assert_eq!(
        post("https://example.org".to_owned())
            .await
            .expect("an answer")
            .status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        post("null".to_owned()).await.expect("an answer").status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        post(server.url.clone()).await.expect("an answer").status(),
        StatusCode::OK
    );
    server.stop().await;
}

#[tokio::test]
async fn a_port_in_use_names_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let settings = KafkaSettings {
        brokers: "127.0.0.1:1".to_owned(),
        properties: BTreeMap::new(),
    };
    let bound = Ingest::bind(IngestOptions::new(
        taken.local_addr().expect("an address"),
        settings,
        "pins",
    ))
    .await;
    let message = bound.err().expect("the port is taken").to_string();
    assert!(message.contains("`ingest.bind`"), "{message}");
}

#[tokio::test]
async fn a_compressed_body_counts_as_what_it_holds() {
    let mock = mock();
    let server = Server::ready(mock.bootstrap_servers(), |options| {
        options.body_limit = 2048;
        options.batch_limit = 8192;
    })
    .await;
    let post = async |path, body| server.post_as("gzip", path, body).await.status();
    assert_eq!(post("/pin/", gzip(pin())).await, StatusCode::OK);
    assert_eq!(
        post("/pins/", gzip(format!("{}\n{}", pin(), pin()))).await,
        StatusCode::OK
    );
    // Two members one after the other are one body.
    let members = [gzip(format!("{}\n", pin())), gzip(pin())].concat();
    let answer = body(server.post_as("GZIP", "/pins/", members).await).await;
    assert_eq!(answer["accepted"], 2);
    for (path, size) in [("/pin/", 1_000_000), ("/pins/", 5_000_000)] {
        let bomb = gzip(vec![b' '; size]);
        assert!(
            bomb.len() < 8192,
            "it passes the limit only when it is opened"
        );
        assert_eq!(
            post(path, bomb).await,
            StatusCode::PAYLOAD_TOO_LARGE,
            "{path}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_cannot_be_opened_says_why() {
    let mock = mock();
    let server = Server::ready(mock.bootstrap_servers(), |_| {}).await;
    for path in ["/pin/", "/pins/"] {
        let mut cut = gzip(pin());
        cut.truncate(cut.len() / 2);
        for broken in [cut, pin().as_bytes().to_vec()] {
            let response = server.post_as("gzip", path, broken).await;
            assert_eq!(response.status(), StatusCode::BAD_REQUEST);
            let detail = body(response).await["detail"].to_string();
            assert!(detail.contains("not valid gzip"), "{detail}");
        }
        let response = server.post_as("br", path, pin()).await;
        assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(response.headers()[header::ACCEPT_ENCODING], "gzip");
        assert_eq!(
            server.post_as("identity", path, pin()).await.status(),
            StatusCode::OK
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_batch_of_too_many_pins_is_refused_as_a_whole() {
    let mock = mock();
    let server = Server::ready(mock.bootstrap_servers(), |options| options.batch_pins = 2).await;
    let response = server.post("/pins/", [pin(); 3].join("\n")).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let detail = body(response).await["detail"].to_string();
    assert!(
        detail.contains("at most 2 pins, this one has 3"),
        "{detail}"
    );
    assert_eq!(
        server.post("/pins/", [pin(); 2].join("\n")).await.status(),
        StatusCode::OK
    );
    server.stop().await;
}

#[tokio::test]
async fn a_stop_answers_what_is_under_way_and_accepts_nothing_new() {
    let mock = mock();
    let server = Server::ready(mock.bootstrap_servers(), |_| {}).await;
    mock.broker_round_trip_time(1, Duration::from_secs(1))
        .expect("slow");
    let client = server.client.clone();
    let posts = ["/pin/", "/pins/"].map(|path| {
        let sent = client
            .post(format!("{}{path}", server.url))
            .body(pin())
            .send();
        tokio::spawn(sent)
    });
    let both_arrived = tokio::time::timeout(Duration::from_secs(20), async {
        // The request that asks is the third.
        while !server
            .get("/metrics")
            .await
            .text()
            .await
            .expect("text")
            .contains("pinwheel_ingest_requests_in_flight 3")
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    both_arrived
        .await
        .expect("the broker is slow enough for both to be seen");
    let url = server.url.clone();
    server.stop().await;
    for post in posts {
        let answer = post
            .await
            .expect("no panic")
            .expect("an answer, not a cut connection");
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let refused = client.post(format!("{url}/pin/")).body(pin()).send().await;
    assert!(refused.is_err_and(|error| error.is_connect()));
}
