//! The router in process, over a real Postgres.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, Response, StatusCode},
};
use chrono::TimeDelta;
use pinwheel_scheduler::{
    engine::Changes,
    model::{
        Alerts, Catchup, Dag, DagId, DatasetName, Deadline, Event, MessageId, Notify, Origin,
        Overlap, Param, ParamType, RunState, Schedule, Task, TaskId, TriggerRule,
    },
    secrets::{Connection, Environment, Keyring, Sources, new_key},
    store::{Appetite, FileErrorRow, Heartbeat, RunFilter, Store},
};
use pinwheel_test_support::postgres::Postgres;
use pinwheel_web::{
    Check, KeptReport, ReportColumn, ReportFile, ReportShown, Reports, Stream, StreamDeadLetter,
    StreamPartition, StreamTop, StreamWindow, StreamWorker, Streams, TestConnection, WebState,
    metrics_router, router, routes,
};
use serde_json::{Value, json};
use tower::ServiceExt;

const HOSTILE: &str = "\"><script>alert(1)</script>{{ x }}$(id)`id`\u{202e}";

struct House {
    store: Store,
    router: Router,
}

impl House {
    /// An empty Pinwheel.
    async fn empty() -> Self {
        let prepare = async |url: String| {
            let store = Store::connect(&url).await.expect("the store connects");
            store.migrate().await.expect("the migrations apply");
        };
        let url = Postgres::shared().fresh_database(prepare).await;
        let store = Store::connect(&url).await.expect("the store connects");
        let changes = Changes::listen(&store)
            .await
            .expect("Postgres can be listened to");
        let router = router(WebState::new(store.clone(), changes));
        Self { store, router }
    }

    /// One with a key for secrets, something in its environment, and a test that says everything it knows.
    async fn with_a_key() -> Self {
        struct Talkative;
        #[async_trait]
        impl TestConnection for Talkative {
            async fn test(&self, connection: &Connection) -> Result<String, String> {
                Err(format!("{} was refused", connection.uri()))
            }
        }
        let Self { store, .. } = Self::empty().await;
        let changes = Changes::listen(&store)
            .await
            .expect("Postgres can be listened to");
        let environment = [
            ("PINWHEEL_VAR_STAGE", "test"),
            ("PINWHEEL_CONN_MAIL", "smtp://mail"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let sources = Sources {
            keyring: Keyring::parse(&new_key()).expect("a key"),
            environment: Environment::of(environment),
        };
        let state = WebState::new(store.clone(), changes)
            .with_secrets(sources)
            .with_connection_test(Arc::new(Talkative));
        let router = router(state);
        Self { store, router }
    }

    /// One DAG, `pins`, that nobody has run.
    async fn with_a_dag() -> Self {
        let house = Self::empty().await;
        let source = format!("# {HOSTILE}\n[dag]\nid = \"pins\"\n");
        house
            .store
            .publish("pins.toml", &source, &dag())
            .await
            .expect("the DAG is published");
        house
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("the router never fails");
        Answer::read(response).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(
            request(Method::GET, path)
                .body(Body::empty())
                .expect("a request"),
        )
        .await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = request(Method::POST, path).header("content-type", "application/json");
        self.send(
            request
                .body(Body::from(body.to_string()))
                .expect("a request"),
        )
        .await
    }

    async fn put(&self, path: &str, body: &Value) -> Answer {
        let request = request(Method::PUT, path).header("content-type", "application/json");
        self.send(
            request
                .body(Body::from(body.to_string()))
                .expect("a request"),
        )
        .await
    }

    async fn delete(&self, path: &str) -> Answer {
        let request = request(Method::DELETE, path).header("x-pinwheel", "1");
        self.send(request.body(Body::empty()).expect("a request"))
            .await
    }

    /// A worker of one queue that takes one task, if there is one.
    async fn work(&self, name: &str, label: &str, queue: &str) -> i64 {
        let queues = [queue.to_owned()];
        let worker_id = self
            .store
            .register(Heartbeat {
                name,
                version: "1.2.3",
                queues: &queues,
                labels: &BTreeMap::from([("zone".to_owned(), label.to_owned())]),
                slots: 4,
                schedules: false,
                lease: Duration::from_secs(600),
            })
            .await
            .expect("the worker is registered");
        let appetite = Appetite {
            worker_id,
            queues: &queues,
            slots: 1,
        };
        // The first look may only find that a pool has a limit now.
        while self
            .store
            .claim(appetite)
            .await
            .expect("it claims")
            .look_again
        {}
        worker_id.0
    }

    /// What a browser sends when a person uses a form of ours.
    async fn submit(&self, path: &str, form: &'static str) -> Answer {
        let request = request(Method::POST, path)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("sec-fetch-site", "same-origin");
        self.send(request.body(Body::from(form)).expect("a request"))
            .await
    }

    async fn runs(&self) -> usize {
        self.store
            .runs(&RunFilter {
                limit: 100,
                ..RunFilter::default()
            })
            .await
            .expect("runs are listed")
            .len()
    }

    async fn trigger(&self) -> i64 {
        let answer = self
            .post(
                "/api/v1/dags/pins/runs",
                &json!({ "params": { "note": HOSTILE } }),
            )
            .await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.json()["run_id"]
            .as_i64()
            .expect("a run has a number")
    }
}

/// A DAG that tells `ops` of a deadline, which its one run has missed; the message did not arrive.
async fn a_house_that_cannot_tell() -> (House, i64) {
    let house = House::empty().await;
    let mut dag = dag();
    dag.params.clear();
    dag.alerts = Alerts {
        no_success_for: Some(Duration::from_secs(26 * 3600)),
        deadlines: vec![Deadline {
            name: format!("by breakfast {HOSTILE}"),
            from: Origin::Queued,
            after: Duration::from_secs(60),
            task: Some(TaskId::new("land").expect("a name")),
        }],
        notify: vec![Notify {
            on: vec![Event::Deadline, Event::Failure],
            to: "ops".to_owned(),
            tasks: Vec::new(),
            cool_down: Duration::from_secs(300),
        }],
    };
    house
        .store
        .publish("pins.toml", "[dag]\nid = \"pins\"\n", &dag)
        .await
        .expect("the DAG is published");
    let made = house.post("/api/v1/dags/pins/runs", &json!({})).await;
    let run = made.json()["run_id"].as_i64().expect("a run has a number");
    let later = TimeDelta::minutes(2);
    assert!(house.store.strike(later).await.expect("it strikes"));
    house.store.gather(later).await.expect("it gathers");
    let message = house
        .store
        .lease_messages(1, later)
        .await
        .expect("it leases")
        .remove(0);
    let pause = Duration::from_secs(3600);
    house
        .store
        .not_delivered(&message, &format!("refused {HOSTILE}"), pause, later)
        .await
        .expect("it is noted");
    (house, run)
}

#[tokio::test]
async fn what_is_missed_and_does_not_arrive_is_seen_where_somebody_would_look() {
    let (house, run) = a_house_that_cannot_tell().await;
    for (path, told) in [
        ("/".to_owned(), "Notifications do not reach"),
        ("/notifications".to_owned(), "Send again"),
        (format!("/runs/{run}"), "by breakfast"),
        ("/dags/pins".to_owned(), "by breakfast"),
    ] {
        let answer = house.get(&path).await;
        let page = answer.page();
        assert!(page.contains(told), "{path}: {page}");
        assert!(!page.contains("<script>alert"), "{path}: {page}");
        if !path.starts_with("/notifications") && path != "/" {
            assert!(page.contains("missed"), "{path}: {page}");
        }
    }
    insta::assert_snapshot!("notifications", house.get("/notifications").await.page());
    let page = house.get("/dags/pins").await.page();
    assert!(
        page.contains("at least every 1d 2h") && page.contains("ops: deadline, failure"),
        "{page}"
    );
    let home = house.get("/").await.page();
    assert!(home.contains("1 channel does not work"), "{home}");
}

#[tokio::test]
async fn the_api_tells_of_deadlines_and_lets_a_message_go_out_again() {
    let (house, run) = a_house_that_cannot_tell().await;
    let deadlines = house.get(&format!("/api/v1/runs/{run}/deadlines")).await;
    let deadline = &deadlines.json()["deadlines"][0];
    assert_eq!(
        (&deadline["state"], &deadline["task_id"]),
        (&"missed".into(), &"land".into())
    );
    let missing = house.get("/api/v1/runs/99/deadlines").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);

    let listed = house
        .get("/api/v1/notifications?dag=pins&failing=true")
        .await
        .json();
    let message = &listed["messages"][0];
    assert_eq!(
        (&message["state"], &message["event"], &message["run_id"]),
        (&"failing".into(), &"deadline".into(), &run.into())
    );
    assert_eq!(
        (
            &listed["channels"][0]["failing"],
            &listed["channels"][0]["waiting"]
        ),
        (&true.into(), &1.into())
    );
    let number = message["message"].as_i64().expect("it has a number");
    let retry = format!("/api/v1/notifications/{number}/retry");
    let again = house.post(&retry, &json!({})).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text);
    house
        .store
        .delivered(MessageId(number))
        .await
        .expect("it is noted");
    let late = house.post(&retry, &json!({})).await;
    assert_eq!(late.status, StatusCode::CONFLICT, "{}", late.text);
    for nothing in [
        "/api/v1/notifications/99/retry",
        "/api/v1/notifications/x/retry",
    ] {
        let answer = house.post(nothing, &json!({})).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{nothing}");
    }
    let form = house
        .submit(&format!("/notifications/{number}/retry"), "")
        .await;
    assert_eq!(form.status, StatusCode::CONFLICT, "{}", form.text);
}

fn request(method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1:8080")
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    text: String,
}

impl Answer {
    async fn read(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 10_000_000)
            .await
            .expect("the body can be read");
        let text = String::from_utf8(bytes.to_vec()).expect("answers are UTF-8");
        Self {
            status: parts.status,
            headers: parts.headers,
            text,
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The page without what differs from run to run.
    fn page(&self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        let start = self.text.find("<main").expect("a page has a main part");
        let end = self.text.find("</main>").expect("a page has a main part");
        redact(&self.text[start..end])
    }
}

/// Replaces instants by a word.
fn redact(text: &str) -> String {
    let mut redacted = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("20") {
        let (before, instant) = rest.split_at(at);
        redacted.push_str(before);
        let is_date =
            instant.len() > 10 && instant.as_bytes()[4] == b'-' && instant.as_bytes()[7] == b'-';
        if is_date {
            let end = instant[10..]
                .find(|character: char| {
                    !character.is_ascii_digit() && !matches!(character, 'T' | ':' | '.' | 'Z' | ' ')
                })
                .map_or(instant.len(), |end| end + 10);
            redacted.push_str("[instant]");
            rest = &instant[end..];
        } else {
            redacted.push_str("20");
            rest = &instant[2..];
        }
    }
    redacted + rest
}

fn dag() -> Dag {
    let task = |id: &str, upstream: &[usize], downstream: &[usize]| Task {
        id: TaskId::new(id).expect("a name"),
        kind: "noop".to_owned(),
        upstream: upstream.to_vec(),
        downstream: downstream.to_vec(),
        trigger_rule: TriggerRule::AllSuccess,
        retries: 0,
        retry_delay: Duration::ZERO,
        retry: pinwheel_scheduler::model::retry::RetryRules::default(),
        queue_timeout: None,
        timeout: None,
        pool: "default".to_owned(),
        queue: "default".to_owned(),
        priority: 0,
        slots: 1,
        allow_failure: false,
        concurrency: None,
        flow: Default::default(),
        outlets: Vec::new(),
        with: serde_json::Map::new(),
    };
    let param = |param_type, default| Param {
        param_type,
        default,
        description: "A <param>".to_owned(),
        minimum: None,
        maximum: None,
        pattern: None,
        choices: vec![],
    };
    Dag {
        id: DagId::new("pins").expect("a name"),
        description: "Land & clean <pins>".to_owned(),
        schedule: None,
        start: None,
        end: None,
        catchup: Catchup::None,
        catchup_window: None,
        jitter: None,
        overlap: Overlap::Queue,
        max_active_runs: 1,
        max_active_tasks: None,
        groups: Default::default(),
        datasets: None,
        alerts: Default::default(),
        timeout: None,
        params: [
            (
                "least".to_owned(),
                param(ParamType::Integer, Some(json!(0))),
            ),
            (
                "note".to_owned(),
                param(ParamType::String, Some(json!("x"))),
            ),
            (
                "deep".to_owned(),
                param(ParamType::Boolean, Some(json!(false))),
            ),
            (
                "tags".to_owned(),
                param(ParamType::List, Some(json!(["a"]))),
            ),
        ]
        .into(),
        tasks: vec![
            task("land", &[], &[1, 2]),
            task("clean", &[0], &[2]),
            task("report", &[0, 1], &[]),
        ],
    }
}

#[tokio::test]
async fn an_empty_house_says_what_to_do_next() {
    let house = House::empty().await;
    insta::assert_snapshot!("home_empty", house.get("/").await.page());
    insta::assert_snapshot!("dags_empty", house.get("/dags").await.page());
    insta::assert_snapshot!("runs_empty", house.get("/runs").await.page());
    insta::assert_snapshot!("workers_empty", house.get("/workers").await.page());
    insta::assert_snapshot!("datasets_empty", house.get("/datasets").await.page());
}

#[tokio::test]
async fn pages_of_a_dag_and_its_run_read_well() {
    let house = House::with_a_dag().await;
    let errors = [FileErrorRow {
        file: "bad.toml".to_owned(),
        report: format!("{HOSTILE} ^^^"),
        error_count: 2,
    }];
    house
        .store
        .record_file_errors(&errors)
        .await
        .expect("errors are recorded");
    house.trigger().await;
    for (name, path) in [
        ("home", "/"),
        ("dags", "/dags"),
        ("dag", "/dags/pins"),
        ("runs", "/runs"),
        ("run", "/runs/1"),
        ("reference", "/api"),
    ] {
        insta::assert_snapshot!(name, house.get(path).await.page());
    }
}

#[tokio::test]
async fn pools_and_workers_read_well() {
    let house = House::with_a_dag().await;
    house.trigger().await;
    for (pool, body) in [
        ("default", json!({ "slots": 1 })),
        (
            "gpu",
            json!({ "slots": 2, "description": "The <two> cards" }),
        ),
        ("net", json!({ "slots": null })),
    ] {
        let answer = house.put(&format!("/api/v1/pools/{pool}"), &body).await;
        assert!(answer.status.is_success(), "{}", answer.text);
    }
    house.work("host-2-4712", "eu-2", "gpu").await;
    let home = house.get("/").await.page();
    assert!(home.contains("1 queue has tasks and no worker."), "{home}");
    assert!(
        home.contains("1 task waits in queue <code>default</code>, which no worker serves"),
        "{home}"
    );
    house.work("host-1-4711", "eu-1", "default").await;
    insta::assert_snapshot!("pools", house.get("/pools").await.page());
    insta::assert_snapshot!("pools_change", house.get("/pools?pool=gpu").await.page());
    insta::assert_snapshot!("workers", house.get("/workers").await.page());
}

/// A dataset that is markup wherever it is not escaped.
const PINS: &str = "s3://lake/\"><script>alert(1)</script>";

impl House {
    /// `pins`, whose task `report` updates [`PINS`], and `reads`, which waits for it and for `users`.
    async fn with_datasets() -> Self {
        let house = Self::empty().await;
        let name = |text: &str| DatasetName::new(text).expect("a name");
        let mut pins = dag();
        pins.tasks[2].outlets = vec![name(PINS)];
        let mut reads = dag();
        reads.id = DagId::new("reads").expect("a name");
        reads.datasets =
            Some(serde_json::from_value(json!({ "all": [PINS, "users"] })).expect("an expression"));
        for dag in [&pins, &reads] {
            house
                .store
                .publish(&format!("{}.toml", dag.id), dag.id.as_str(), dag)
                .await
                .expect("the DAG is published");
        }
        house
    }

    async fn push(&self, body: &Value) -> Answer {
        self.post("/api/v1/datasets/events", body).await
    }
}

#[tokio::test]
async fn datasets_read_well() {
    let house = House::with_datasets().await;
    let pushed = house
        .push(&json!({ "dataset": PINS, "extra": { "note": HOSTILE } }))
        .await;
    assert_eq!(pushed.status, StatusCode::CREATED, "{}", pushed.text);
    insta::assert_snapshot!("datasets", house.get("/datasets").await.page());
    let dag = house.get("/dags/reads").await.page();
    for words in ["still to come", "1 event", "No clock makes it run"] {
        assert!(dag.contains(words), "{words}: {dag}");
    }
    let producer = house.get("/dags/pins").await.page();
    assert!(producer.contains("When it succeeds"), "{producer}");
    let run = house.push(&json!({ "dataset": "users" })).await.json()["runs"][0].clone();
    let run = house.get(&format!("/runs/{run}")).await.page();
    assert!(run.contains("Made by 2 events"), "{run}");
    for page in [dag, producer, run] {
        assert!(!page.contains("<script>alert"), "{page}");
    }
}

#[tokio::test]
async fn the_api_pushes_events_and_lists_datasets() {
    let house = House::with_datasets().await;
    let first = house
        .push(&json!({ "dataset": PINS, "extra": { "rows": 200 } }))
        .await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    assert_eq!(first.json()["runs"], json!([]), "`users` is still to come");
    let all = house.get("/api/v1/datasets").await.json();
    assert_eq!(all["datasets"][0]["dataset"], PINS);
    assert_eq!(
        all["datasets"][0]["producers"],
        json!([{ "dag_id": "pins", "task_id": "report" }])
    );
    assert_eq!(all["datasets"][1]["consumers"], json!(["reads"]));
    let events: Vec<_> = all["sets"][0]["members"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|member| member["events"].clone())
        .collect();
    assert_eq!(events, [json!(1), json!(0)]);
    let detail = house.get("/api/v1/dags/reads").await.json();
    assert_eq!(detail["datasets"], all["sets"][0]);

    let second = house.push(&json!({ "dataset": "users" })).await.json();
    let run = second["runs"][0].as_i64().expect("a run was made");
    let shown = house.get(&format!("/api/v1/runs/{run}")).await.json();
    assert_eq!(
        (shown["dag_id"].as_str(), shown["kind"].as_str()),
        (Some("reads"), Some("dataset"))
    );
    let made_by = house
        .get(&format!("/api/v1/runs/{run}/datasets"))
        .await
        .json();
    let made_by = made_by["events"].as_array().expect("a list").clone();
    assert_eq!(made_by.len(), 2);
    assert_eq!(made_by[1]["extra"], json!({ "rows": 200 }));
    assert_eq!(shown["logical_date"], made_by[0]["at"]);
    let page = house.get("/api/v1/datasets/events?limit=1").await.json();
    assert_eq!(page["events"][0]["event_id"], second["event_id"]);
    assert_eq!(page["next_before"], second["event_id"]);
    let only = house
        .get("/api/v1/datasets/events?dataset=users&limit=10")
        .await
        .json();
    assert_eq!(only["events"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn the_api_refuses_events_that_do_not_fit() {
    let house = House::with_datasets().await;
    for (body, status, words) in [
        (
            json!({}),
            StatusCode::UNPROCESSABLE_ENTITY,
            "`dataset` is a URI or a name",
        ),
        (
            json!({ "dataset": "a b" }),
            StatusCode::UNPROCESSABLE_ENTITY,
            "found `a b`",
        ),
        (
            json!({ "dataset": "user" }),
            StatusCode::NOT_FOUND,
            "did you mean `users`?",
        ),
        (
            json!({ "dataset": "users", "extra": { "x": "y".repeat(70_000) } }),
            StatusCode::UNPROCESSABLE_ENTITY,
            "`extra` has at most 65536 bytes",
        ),
        (
            json!({ "dataset": "users", "extra": [] }),
            StatusCode::UNPROCESSABLE_ENTITY,
            "a map",
        ),
        (
            json!({ "dataset": "users", "exra": {} }),
            StatusCode::UNPROCESSABLE_ENTITY,
            "unknown field `exra`",
        ),
    ] {
        let refused = house.push(&body).await;
        assert_eq!(refused.status, status, "{}", refused.text);
        assert!(refused.text.contains(words), "{words}: {}", refused.text);
    }
    let none = house.get("/api/v1/datasets/events").await.json();
    assert_eq!(none, json!({ "events": [], "next_before": null }));
}

#[tokio::test]
async fn hostile_text_never_becomes_markup() {
    let house = House::with_a_dag().await;
    house.work(HOSTILE, HOSTILE, HOSTILE).await;
    let printable = HOSTILE.replace('\u{202e}', "");
    let answer = house
        .put(
            "/api/v1/pools/cpu",
            &json!({ "slots": 1, "description": printable }),
        )
        .await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let errors = [FileErrorRow {
        file: HOSTILE.to_owned(),
        report: HOSTILE.to_owned(),
        error_count: 1,
    }];
    house
        .store
        .record_file_errors(&errors)
        .await
        .expect("errors are recorded");
    let run = house.trigger().await;
    let query = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E";
    for path in [
        "/".to_owned(),
        "/dags".to_owned(),
        format!("/dags?q={query}"),
        "/dags/pins".to_owned(),
        "/workers".to_owned(),
        "/pools".to_owned(),
        "/pools?pool=cpu".to_owned(),
        format!("/pools?pool={query}"),
        format!("/connections?connection={query}"),
        format!("/variables?variable={query}"),
        format!("/runs?dag={query}&state={query}"),
        format!("/runs/{run}"),
        format!("/dags/{query}"),
        format!("/runs/{query}/tasks/{query}"),
        format!("/nothing/{query}"),
    ] {
        let answer = house.get(&path).await;
        assert!(!answer.text.contains("<script>alert"), "{path}");
        assert!(
            !answer.text.contains("style="),
            "{path}: the policy forbids inline styles"
        );
        assert!(
            !answer.text.contains(" onclick") && !answer.text.contains("javascript:"),
            "{path}"
        );
    }
}

/// One report of two runs, full of what somebody might have posted; or a store that does not answer.
enum Shelf {
    Full,
    Away,
}

impl Shelf {
    fn kept(&self) -> Result<Vec<KeptReport>, String> {
        let run = |day: u32, run_id| KeptReport {
            report: "posts".to_owned(),
            kept: format!("202601{day:02}T020000Z-r{run_id}"),
            logical_date: format!("2026-01-{day:02} 02:00:00 UTC"),
            run_id,
            formats: vec!["csv".to_owned(), "html".to_owned()],
        };
        match self {
            Self::Full => Ok(vec![run(2, 8), run(1, 7)]),
            Self::Away => Err("the store does not answer".to_owned()),
        }
    }
}

#[async_trait]
impl Reports for Shelf {
    async fn list(&self) -> Result<Vec<KeptReport>, String> {
        self.kept()
    }

    async fn runs(&self, report: &str) -> Result<Vec<KeptReport>, String> {
        let kept = self.kept()?;
        Ok(kept
            .into_iter()
            .filter(|kept| kept.report == report)
            .collect())
    }

    async fn read(&self, report: &str, kept: &str) -> Result<Option<ReportShown>, String> {
        assert!(
            report == "posts" && kept.starts_with("202601"),
            "{report}/{kept}"
        );
        Ok(Some(ReportShown {
            title: HOSTILE.to_owned(),
            description: HOSTILE.to_owned(),
            dag: "pins".to_owned(),
            run_id: 7,
            logical_date: "then".to_owned(),
            charts: vec!["<figure><svg></svg></figure>".to_owned()],
            columns: vec![ReportColumn {
                name: HOSTILE.to_owned(),
                is_numeric: false,
            }],
            rows: vec![vec![Some(HOSTILE.to_owned())], vec![None]],
            all_rows: 5,
            params: vec![("least".to_owned(), HOSTILE.to_owned())],
            sql: HOSTILE.to_owned(),
            views: vec![("chosen".to_owned(), HOSTILE.to_owned())],
        }))
    }

    async fn file(
        &self,
        _report: &str,
        _kept: &str,
        format: &str,
    ) -> Result<Option<ReportFile>, String> {
        Ok((format == "html").then(|| ReportFile {
            content_type: "text/html; charset=utf-8",
            body: HOSTILE.as_bytes().to_vec(),
        }))
    }
}

async fn a_house_with(shelf: Shelf) -> House {
    let House { store, .. } = House::empty().await;
    let changes = Changes::listen(&store)
        .await
        .expect("Postgres can be listened to");
    let state = WebState::new(store.clone(), changes).with_reports(Arc::new(shelf));
    House {
        store,
        router: router(state),
    }
}

#[tokio::test]
async fn kept_reports_are_listed_shown_and_saved() {
    let house = a_house_with(Shelf::Full).await;
    let newest = "/reports/posts/20260102T020000Z-r8";
    assert!(
        house.get("/reports").await.page().contains("r8\""),
        "the newest is linked"
    );
    let runs = house.get("/reports/posts").await.page();
    assert!(
        runs.contains("2 runs") && runs.contains("#7") && runs.contains("#8"),
        "{runs}"
    );
    let shown = house.get(newest).await.page();
    assert!(
        shown.contains("<svg></svg>") && shown.contains("3 more"),
        "{shown}"
    );
    assert!(
        shown.contains("r7\">Older") && !shown.contains("Newer"),
        "{shown}"
    );
    assert!(
        !shown.contains("<script") && !shown.contains('\u{202e}'),
        "{shown}"
    );

    let file = house.get(&format!("{newest}/html")).await;
    assert_eq!(file.status, StatusCode::OK);
    assert_eq!(
        file.headers["content-disposition"],
        "attachment; filename=\"posts-20260102T020000Z-r8.html\"",
        "a page from a bucket is not shown on our address"
    );
    assert_eq!(file.headers["x-content-type-options"], "nosniff");
    for missing in [
        "/reports/other",
        "/reports/other/20260102T020000Z-r8",
        "/reports/posts/20260103T020000Z-r9",
        "/reports/posts/20260102T020000Z-r8/exe",
        "/api/v1/reports/other",
    ] {
        assert_eq!(
            house.get(missing).await.status,
            StatusCode::NOT_FOUND,
            "{missing}"
        );
    }
    let listed = house.get("/api/v1/reports/posts").await.json();
    assert_eq!(listed, house.get("/api/v1/reports").await.json());
    assert_eq!(
        listed["reports"][1],
        json!({ "report": "posts", "kept": "20260101T020000Z-r7", "run_id": 7,
            "files": ["/reports/posts/20260101T020000Z-r7/csv", "/reports/posts/20260101T020000Z-r7/html"] })
    );
}

#[tokio::test]
async fn a_store_that_is_away_or_not_configured_is_told_apart() {
    let away = a_house_with(Shelf::Away).await;
    let none = House::empty().await;
    for path in ["/reports/posts", "/api/v1/reports"] {
        assert_eq!(
            away.get(path).await.status,
            StatusCode::BAD_GATEWAY,
            "{path}"
        );
        assert_eq!(none.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let page = none.get("/reports").await.page();
    assert!(page.contains("s3.endpoint"), "{page}");
}

/// One stream whose every text is hostile.
struct HostileStream;

#[async_trait]
impl Streams for HostileStream {
    async fn streams(&self) -> Result<Vec<Stream>, String> {
        let now = chrono::Utc::now();
        let hostile = || HOSTILE.to_owned();
        let window = |group: String, start| StreamWindow {
            window: hostile(),
            start,
            end: start + TimeDelta::minutes(1),
            group,
            events: 3,
            share: Some(0.75),
            late: 1,
            mean: Some(1_234.5),
            maximum: Some(2_000),
            error_rate: Some(0.125),
            is_final: true,
        };
        Ok(vec![Stream {
            stream: hostile(),
            topic: hostile(),
            dataset: hostile(),
            table: Some(hostile()),
            state: hostile(),
            problem: Some(hostile()),
            events_per_second: 41.6,
            lag: Some(17),
            watermark: Some(now),
            last_commit: None,
            events: 400,
            dead_letters: 5,
            late: 6,
            dropped: 2,
            workers: vec![StreamWorker {
                worker: hostile(),
                state: "lost".to_owned(),
                problem: Some(hostile()),
                partitions: vec![0, 3],
                events_per_second: 0.0,
                updated_at: now,
            }],
            partitions: vec![StreamPartition {
                partition: 0,
                worker: hostile(),
                generation: 9,
                next_offset: 4_711,
                lag: None,
                watermark: None,
                idle_since: Some(now),
                events: 400,
                dead_letters: 5,
                late: 6,
            }],
            windows: vec![
                window("older".to_owned(), now - TimeDelta::minutes(5)),
                window(hostile(), now),
            ],
            top: vec![StreamTop {
                window: "last".to_owned(),
                place: 1,
                group: hostile(),
                events: 2,
                share: 0.5,
            }],
            newest_dead_letters: vec![StreamDeadLetter {
                partition: 0,
                offset: 12,
                at: None,
                rule: hostile(),
                detail: hostile(),
            }],
        }])
    }
}

#[tokio::test]
async fn the_streams_page_and_its_api_tell_what_the_workers_keep() {
    let House { store, .. } = House::empty().await;
    let changes = Changes::listen(&store)
        .await
        .expect("Postgres can be listened to");
    let state = WebState::new(store.clone(), changes).with_streams(Arc::new(HostileStream));
    let house = House {
        store,
        router: router(state),
    };
    let page = house.get("/streams").await.page();
    for part in [
        "17",
        "42/s",
        "6, 2 left out",
        "4711",
        "not known",
        "75.0 %",
        "12.5 %",
        "1234",
        "0, 3",
        "lost",
        "0:12",
        "idle since",
    ] {
        assert!(page.contains(part), "{part} is missing: {page}");
    }
    assert!(
        !page.contains("older"),
        "only the newest window of a name is shown"
    );
    assert!(!page.contains("<script>alert"), "{page}");
    let list = house.get("/api/v1/streams").await.json();
    assert_eq!(list["streams"][0]["lag"], 17);
    assert_eq!(list["streams"][0]["partitions"][0]["generation"], 9);
    assert_eq!(list["streams"][0]["windows"][1]["group"], HOSTILE);
}

#[tokio::test]
async fn without_streams_the_page_says_how_to_get_one() {
    let house = House::empty().await;
    let page = house.get("/streams").await.page();
    assert!(page.contains("No stream yet"), "{page}");
    let list = house.get("/api/v1/streams").await.json();
    assert_eq!(list, json!({ "streams": [] }));
}

#[tokio::test]
async fn every_unsafe_route_refuses_another_site() {
    let house = House::with_a_dag().await;
    let run = house.trigger().await;
    let unsafe_routes: Vec<_> = routes()
        .into_iter()
        .filter(|route| route.method != Method::GET)
        .collect();
    assert!(
        unsafe_routes.len() >= 17,
        "the table of routes lists the unsafe ones"
    );
    for route in unsafe_routes {
        let path = route
            .path
            .replace("{dag}", "pins")
            .replace("{run}", &run.to_string())
            .replace("{task}", "land")
            .replace("{pool}", "default")
            .replace("{connection}", "warehouse")
            .replace("{variable}", "region")
            .replace("{backfill}", "1")
            .replace("{message}", "1");
        let attacks: [&[(&str, &str)]; 7] = [
            &[],
            &[
                ("sec-fetch-site", "cross-site"),
                ("content-type", "application/json"),
            ],
            &[("sec-fetch-site", "same-site"), ("x-pinwheel", "1")],
            &[
                ("origin", "https://evil.example"),
                ("content-type", "application/json"),
            ],
            &[("origin", "http://127.0.0.1:9999"), ("x-pinwheel", "1")],
            &[("origin", "null"), ("x-pinwheel", "1")],
            &[("content-type", "text/plain")],
        ];
        for attack in attacks {
            let mut request = request(route.method.clone(), &path);
            for (name, value) in attack {
                request = request.header(*name, *value);
            }
            let answer = house
                .send(request.body(Body::from("{}")).expect("a request"))
                .await;
            assert_eq!(
                answer.status,
                StatusCode::FORBIDDEN,
                "{} {path} with {attack:?}",
                route.method
            );
        }
    }
    let row = house
        .store
        .dag(&DagId::new("pins").expect("a name"))
        .await
        .expect("it is read")
        .expect("it is there");
    assert!(!row.paused);
    assert_eq!(house.runs().await, 1, "no attack made a run");
}

#[tokio::test]
async fn every_route_refuses_a_foreign_host() {
    let house = House::empty().await;
    for route in routes() {
        for host in ["evil.example", "127.0.0.1.evil.example:8080"] {
            let request = Request::builder()
                .method(route.method.clone())
                .uri(route.path.replace(['{', '}'], ""));
            let request = request.header("host", host).header("x-pinwheel", "1");
            let answer = house
                .send(request.body(Body::empty()).expect("a request"))
                .await;
            assert_eq!(
                answer.status,
                StatusCode::MISDIRECTED_REQUEST,
                "{} {}",
                route.method,
                route.path
            );
        }
    }
    let without = Request::builder()
        .uri("/")
        .body(Body::empty())
        .expect("a request");
    assert_eq!(
        house.send(without).await.status,
        StatusCode::MISDIRECTED_REQUEST
    );
}

#[tokio::test]
async fn every_answer_carries_the_guarding_headers() {
    let house = House::empty().await;
    for path in [
        "/",
        "/nothing",
        "/api/v1/dags",
        "/api/v1/nothing",
        "/healthz",
        "/dags/none",
    ] {
        let answer = house.get(path).await;
        assert!(
            answer
                .header("content-security-policy")
                .contains("default-src 'none'; script-src 'self'"),
            "{path}"
        );
        assert!(
            answer
                .header("content-security-policy")
                .contains("frame-ancestors 'none'"),
            "{path}"
        );
        assert!(
            !answer.header("content-security-policy").contains("unsafe"),
            "{path}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "same-origin", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
    }
}

#[tokio::test]
async fn assets_are_cached_for_ever_and_old_ones_are_refused() {
    let house = House::empty().await;
    let page = house.get("/").await.text;
    let links: Vec<&str> = page
        .split('"')
        .filter(|part| part.starts_with("/assets/"))
        .collect();
    assert!(links.len() >= 4);
    for link in links {
        let answer = house.get(link).await;
        assert_eq!(answer.status, StatusCode::OK, "{link}");
        assert!(
            answer.header("cache-control").contains("immutable"),
            "{link}"
        );
    }
    assert_eq!(
        house.get("/assets/app.0000000000000000.css").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        house.get("/assets/..%2fCargo.toml").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn the_api_triggers_a_run_and_shows_it() {
    let house = House::with_a_dag().await;
    let body = json!({ "params": { "least": 7 }, "logical_date": "2026-01-31T02:00:00Z" });
    let answer = house.post("/api/v1/dags/pins/runs", &body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let run = answer.json();
    assert_eq!(
        answer.header("location"),
        format!("/api/v1/runs/{}", run["run_id"])
    );
    assert_eq!(
        run["params"],
        json!({ "least": 7, "note": "x", "deep": false, "tags": ["a"] })
    );
    assert_eq!(run["logical_date"], "2026-01-31T02:00:00Z");
    assert_eq!(run["kind"], "manual");
    assert_eq!(house.get(answer.header("location")).await.json(), run);

    let again = house.post("/api/v1/dags/pins/runs", &body).await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    assert_eq!(again.json()["run_id"], run["run_id"]);
    assert_eq!(again.header("content-type"), "application/problem+json");

    let list = house.get("/api/v1/runs?dag=pins&limit=10").await.json();
    assert_eq!(list["runs"].as_array().map(Vec::len), Some(1));
    let dag = house.get("/api/v1/dags/pins").await.json();
    assert_eq!(dag["tasks"][2]["after"], json!(["land", "clean"]));
    assert_eq!(dag["open_runs"], 1);
}

#[tokio::test]
async fn the_api_refuses_with_problems_that_say_what_is_wrong() {
    let house = House::with_a_dag().await;
    let run = house.trigger().await;
    let cases: [(&str, Value, StatusCode); 9] = [
        (
            "/api/v1/dags/pins/runs",
            json!({ "params": { "least": "many" } }),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            "/api/v1/dags/pins/runs",
            json!({ "params": { "leest": 1 } }),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            "/api/v1/dags/pins/runs",
            json!({ "parms": {} }),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        ("/api/v1/dags/pinz/runs", json!({}), StatusCode::NOT_FOUND),
        ("/api/v1/dags/..%2f/pause", json!({}), StatusCode::NOT_FOUND),
        (
            "/api/v1/runs/999999/cancel",
            json!({}),
            StatusCode::NOT_FOUND,
        ),
        (
            "/api/v1/runs/first/cancel",
            json!({}),
            StatusCode::NOT_FOUND,
        ),
        (
            &format!("/api/v1/runs/{run}/tasks/none/clear"),
            json!({}),
            StatusCode::NOT_FOUND,
        ),
        (
            &format!("/api/v1/runs/{run}/clear"),
            json!({ "tasks": ["land"], "only_failed": true }),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
    ];
    for (path, body, status) in cases {
        let answer = house.post(path, &body).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text);
        assert_eq!(
            answer.header("content-type"),
            "application/problem+json",
            "{path}"
        );
        let problem = answer.json();
        assert_eq!(problem["status"], status.as_u16());
        assert!(
            problem["title"]
                .as_str()
                .is_some_and(|title| !title.is_empty()),
            "{problem}"
        );
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty()),
            "{problem}"
        );
    }
    let many = house
        .post(
            "/api/v1/dags/pins/runs",
            &json!({ "params": { "least": "many" } }),
        )
        .await
        .json();
    assert_eq!(many["param"], "least");
    for path in [
        "/api/v1/runs?limit=501",
        "/api/v1/runs?limit=0",
        "/api/v1/runs?sort=up",
        "/api/v1/runs?state=odd",
    ] {
        assert_eq!(
            house.get(path).await.status,
            StatusCode::BAD_REQUEST,
            "{path}"
        );
    }
    let broken =
        request(Method::POST, "/api/v1/dags/pins/runs").header("content-type", "application/json");
    let broken = house
        .send(broken.body(Body::from("{")).expect("a request"))
        .await;
    assert_eq!(broken.status, StatusCode::BAD_REQUEST);
    let text = request(Method::POST, "/api/v1/dags/pins/runs").header("x-pinwheel", "1");
    let text = house
        .send(text.body(Body::from("{}")).expect("a request"))
        .await;
    assert_eq!(text.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let large =
        request(Method::POST, "/api/v1/dags/pins/runs").header("content-type", "application/json");
    let large = house
        .send(
            large
                .body(Body::from(vec![b' '; 2_000_000]))
                .expect("a request"),
        )
        .await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(large.header("content-type"), "application/problem+json");
    assert_eq!(house.runs().await, 1);
}

#[tokio::test]
async fn the_api_pauses_cancels_and_clears() {
    let house = House::with_a_dag().await;
    assert_eq!(
        house
            .post("/api/v1/dags/pins/pause", &json!({}))
            .await
            .json()["paused"],
        true
    );
    assert_eq!(
        house
            .post("/api/v1/dags/pins/unpause", &json!({}))
            .await
            .json()["paused"],
        false
    );
    let run = house.trigger().await;
    let cancelled = house
        .post(&format!("/api/v1/runs/{run}/cancel"), &json!({}))
        .await;
    assert_eq!(cancelled.json()["state"], "cancelled", "{}", cancelled.text);
    let again = house
        .post(&format!("/api/v1/runs/{run}/cancel"), &json!({}))
        .await;
    assert_eq!(again.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn forms_work_without_a_script() {
    let house = House::with_a_dag().await;
    let form = "param.least=5&param.note=hello+world&param.deep=true&param.tags=%5B%22b%22%5D&logical_date=2026-01-31T02:00";
    let answer = house.submit("/dags/pins/trigger", form).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
    assert_eq!(answer.header("location"), "/runs/1?done=triggered");
    let run = house.get("/api/v1/runs/1").await.json();
    assert_eq!(
        run["params"],
        json!({ "least": 5, "note": "hello world", "deep": true, "tags": ["b"] })
    );
    assert_eq!(run["logical_date"], "2026-01-31T02:00:00Z");
    assert_eq!(
        house
            .get("/runs/1?done=triggered")
            .await
            .text
            .matches("The run was made.")
            .count(),
        1
    );
    assert_eq!(
        house
            .get("/runs/1?done=%3Cb%3E")
            .await
            .text
            .matches("id=\"note\"")
            .count(),
        0
    );

    let wrong = house
        .submit("/dags/pins/trigger", "param.least=many&param.tags=%5B")
        .await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        wrong.text.contains("expected a whole number, found `many`"),
        "{}",
        wrong.text
    );
    assert!(wrong.text.contains("is no JSON"));
    assert!(
        wrong.text.contains("value=\"many\""),
        "what was typed is kept"
    );

    let paused = house.submit("/dags/pins/pause", "").await;
    assert_eq!(
        (paused.status, paused.header("location")),
        (StatusCode::SEE_OTHER, "/dags/pins?done=paused")
    );
    assert_eq!(
        house.submit("/runs/1/cancel", "").await.status,
        StatusCode::SEE_OTHER
    );
    let run = house
        .store
        .run(pinwheel_scheduler::model::RunId(1))
        .await
        .expect("it is read")
        .expect("it is there");
    assert_eq!(run.state, RunState::Cancelled);
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_callers_language() {
    let house = House::empty().await;
    let page = house.get("/dags/none").await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(
        page.header("content-type").starts_with("text/html") && page.text.contains("No such DAG")
    );
    let problem = house.get("/api/v1/dags/none").await;
    assert_eq!(problem.status, StatusCode::NOT_FOUND);
    assert_eq!(problem.json()["title"], "No such DAG");
    let method = request(Method::DELETE, "/api/v1/dags")
        .header("x-pinwheel", "1")
        .body(Body::empty());
    let method = house.send(method.expect("a request")).await;
    assert_eq!(method.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(method.header("content-type"), "application/problem+json");
    assert!(house.get("/nothing").await.text.contains("Nothing is here"));
}

#[tokio::test]
async fn a_scheduled_dag_says_what_its_runs_work_on_and_which_ticks_made_none() {
    let house = House::empty().await;
    let hour = chrono::TimeDelta::hours(1);
    house
        .store
        .begin_watch(Duration::from_secs(60), chrono::TimeDelta::zero())
        .await
        .expect("somebody watches");
    let mut scheduled = dag();
    scheduled.overlap = Overlap::Skip;
    let zone = chrono_tz::Tz::Europe__London;
    let nightly = Schedule::parse_cron("30 1 * * *", zone).expect("an expression");
    let anchor = chrono::Utc::now() - chrono::TimeDelta::minutes(25);
    let hourly = Schedule::parse_every("1h", Some(anchor), zone).expect("an interval");
    for (id, schedule) in [("nightly", nightly), ("hourly", hourly)] {
        scheduled.id = DagId::new(id).expect("a name");
        scheduled.schedule = Some(schedule);
        house
            .store
            .publish(&format!("{id}.toml"), id, &scheduled)
            .await
            .expect("the DAG is published");
    }
    let next = house
        .get("/api/v1/dags/nightly/next?from=2026-10-24T12:00:00Z&count=2")
        .await
        .json();
    assert_eq!(next["schedule_words"], "every day at 01:30 Europe/London");
    assert_eq!(
        next["next_runs"][0],
        json!({
            "logical_date": "2026-10-24T00:30:00Z",
            "data_interval_start": "2026-10-24T00:30:00Z",
            "data_interval_end": "2026-10-25T00:30:00Z",
            "fires_at": "2026-10-25T00:30:00Z",
            "local": "2026-10-25T01:30:00+01:00",
            "clock_change": "01:30 comes twice, runs the first time",
        })
    );
    assert_eq!(next["next_runs"].as_array().map(Vec::len), Some(2));
    let refused = house.get("/api/v1/dags/nightly/next?cuont=2").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);

    for hours in 1..=3 {
        house
            .store
            .schedule_due(hour * hours)
            .await
            .expect("a pass of the scheduler");
    }
    let detail = house.get("/api/v1/dags/hourly").await.json();
    assert_eq!(detail["timing"]["overlap"], "skip");
    assert_eq!(detail["skipped_ticks"][0]["ticks"], 2);
    assert_eq!(detail["skipped_ticks"][0]["open_runs"], 1);
    assert_eq!(detail["next_runs"].as_array().map(Vec::len), Some(5));
    let page = house.get("/dags/hourly").await.text;
    for shown in [
        "works on ",
        "UTC (1h)",
        "A tick makes no run while as many are open as may be",
        "Ticks that made no run",
        "2 ticks from ",
        "1 of at most 1 runs were open",
    ] {
        assert!(page.contains(shown), "{shown}");
    }
}

#[tokio::test]
async fn the_api_says_why_marks_notes_and_clears_with_the_list_first() {
    let house = House::with_a_dag().await;
    let run = house.trigger().await;
    let here = format!("/api/v1/runs/{run}");
    let why = house.get(&format!("{here}/tasks/land/why")).await.json();
    assert_eq!(why["sentence"], "no worker is alive");
    assert_eq!(why["because"], json!([{ "because": "no_worker" }]));
    let why = house.get(&format!("{here}/tasks/report/why")).await.json();
    assert_eq!(
        why["sentence"],
        "waiting for 2 of 2 upstream tasks: land (queued), clean (waiting)"
    );
    let page = house.get(&format!("/runs/{run}")).await.page();
    assert!(page.contains("</a>: no worker is alive"), "{page}");
    let page = house.get(&format!("/runs/{run}/tasks/land")).await.page();
    assert!(page.contains("no worker is alive"), "{page}");

    let marked = house
        .post(
            &format!("{here}/mark"),
            &json!({ "state": "failed", "tasks": ["land"] }),
        )
        .await;
    assert_eq!(marked.status, StatusCode::OK, "{}", marked.text);
    assert_eq!(marked.json()["run_state"], "failed");
    assert_eq!(marked.json()["tasks"], json!(["land"]));
    let again = house
        .post(&format!("{here}/mark"), &json!({ "state": "failed" }))
        .await;
    assert_eq!(again.status, StatusCode::CONFLICT, "{}", again.text);
    let empty = house.post(&format!("{here}/mark"), &json!({})).await;
    assert_eq!(empty.status, StatusCode::UNPROCESSABLE_ENTITY);

    let body = json!({ "tasks": ["clean"], "with_upstream": true, "dry_run": true });
    let foretold = house.post(&format!("{here}/clear"), &body).await.json();
    assert_eq!(foretold["tasks"], json!(["land", "clean", "report"]));
    assert_eq!(foretold["instances"][0]["state"], "failed");
    assert_eq!(foretold["moved"], Value::Null);
    assert_eq!(house.get(&here).await.json()["state"], "failed");

    let noted = house
        .put(&format!("{here}/note"), &json!({ "note": HOSTILE }))
        .await
        .json();
    assert_eq!(noted["notes"][0]["task_id"], Value::Null);
    let note = json!({ "note": "ask Ada" });
    house.put(&format!("{here}/tasks/land/note"), &note).await;
    let notes = house.get(&format!("{here}/notes")).await.json();
    assert_eq!(notes["notes"][1]["task_id"], "land");
    let long = json!({ "note": "x".repeat(1_001) });
    let long = house.put(&format!("{here}/note"), &long).await;
    assert_eq!(long.status, StatusCode::UNPROCESSABLE_ENTITY);
    let page = house.get(&format!("/runs/{run}")).await.page();
    assert!(page.contains("ask Ada") && !page.contains(HOSTILE));

    let page = house
        .get(&format!(
            "/runs/{run}/clear?what=task&task=clean&scope=with_both"
        ))
        .await
        .page();
    assert!(page.contains("Clear 3 tasks"), "{page}");
    assert_eq!(house.get(&here).await.json()["state"], "failed");
    let nothing = house
        .get(&format!("/runs/{run}/clear?what=task&task=nobody"))
        .await
        .page();
    assert!(nothing.contains("unknown task `nobody`"), "{nothing}");
    let done = house
        .submit(
            &format!("/runs/{run}/clear"),
            "what=failed&task=&scope=with_downstream&version=latest",
        )
        .await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text);
    assert_eq!(house.get(&here).await.json()["state"], "running");
    let marked = house
        .submit(&format!("/runs/{run}/tasks/land/mark"), "state=success")
        .await;
    assert_eq!(marked.status, StatusCode::SEE_OTHER, "{}", marked.text);
    let why = house.get(&format!("{here}/tasks/clean/why")).await.json();
    assert_eq!(why["state"], "queued");
}

#[tokio::test]
async fn the_openapi_document_names_every_endpoint() {
    let house = House::empty().await;
    let document = house.get("/api/v1/openapi.json").await.json();
    for route in routes()
        .iter()
        .filter(|route| route.path.starts_with("/api/v1/") && !route.path.ends_with("openapi.json"))
    {
        let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
        assert!(
            operation["summary"].is_string(),
            "{} {} is not described",
            route.method,
            route.path
        );
        assert!(
            ["200", "201", "204"]
                .iter()
                .any(|status| operation["responses"][*status].is_object()),
            "{} {} does not say what it answers",
            route.method,
            route.path
        );
    }
}

#[tokio::test]
async fn the_api_makes_changes_and_deletes_pools() {
    let house = House::with_a_dag().await;
    let made = house
        .put(
            "/api/v1/pools/gpu",
            &json!({ "slots": 2, "description": "The two cards" }),
        )
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let pool = made.json();
    assert_eq!(
        pool,
        json!({ "pool": "gpu", "slots": 2, "description": "The two cards", "used": 0, "running": 0, "ready": 0,
            "tasks": 0, "dags": [] })
    );
    assert_eq!(house.get("/api/v1/pools/gpu").await.json(), pool);
    let changed = house
        .put("/api/v1/pools/gpu", &json!({ "slots": null }))
        .await;
    assert_eq!(changed.status, StatusCode::OK);
    assert_eq!(changed.json()["slots"], Value::Null);
    assert_eq!(changed.json()["description"], "The two cards");
    let all = house.get("/api/v1/pools").await.json();
    let names: Vec<_> = all["pools"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|pool| (pool["pool"].clone(), pool["tasks"].clone()))
        .collect();
    assert_eq!(
        names,
        [(json!("default"), json!(3)), (json!("gpu"), json!(0))]
    );
    let gone = house.delete("/api/v1/pools/gpu").await;
    assert_eq!(
        (gone.status, gone.text.as_str()),
        (StatusCode::NO_CONTENT, "")
    );
    for path in ["/api/v1/pools/gpu", "/api/v1/pools/..%2f"] {
        assert_eq!(house.get(path).await.status, StatusCode::NOT_FOUND);
        let again = house.delete(path).await;
        assert_eq!(again.status, StatusCode::NOT_FOUND);
        assert_eq!(again.json()["title"], "No such pool");
    }
    let needed = house.delete("/api/v1/pools/default").await;
    assert_eq!(needed.status, StatusCode::CONFLICT);
    assert_eq!(needed.header("content-type"), "application/problem+json");
}

#[tokio::test]
async fn a_dag_is_backfilled_over_the_api_and_on_its_page() {
    let house = House::with_a_dag().await;
    let range = json!({ "from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z" });
    let refused = house.post("/api/v1/dags/pins/backfills", &range).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.json()["title"], "The DAG has no schedule");

    let mut daily = dag();
    daily.schedule = serde_json::from_value(json!({ "cron": "@daily", "timezone": "UTC" }))
        .expect("it is a schedule");
    house
        .store
        .publish("pins.toml", "daily", &daily)
        .await
        .expect("the DAG is published");
    let planned = house
        .post("/api/v1/dags/pins/backfills/dry-run", &range)
        .await;
    assert_eq!(planned.status, StatusCode::OK, "{}", planned.text);
    assert_eq!(
        planned.json()["dates"][0],
        json!({ "logical_date": "2026-01-01T00:00:00Z", "data_interval_end": "2026-01-02T00:00:00Z",
            "run_id": null, "run_state": null, "action": "make" })
    );
    assert_eq!(house.runs().await, 0, "nothing was done");

    let made = house.post("/api/v1/dags/pins/backfills", &range).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    assert_eq!(made.header("location"), "/api/v1/backfills/1");
    assert_eq!(
        made.json()["progress"],
        json!({ "total": 3, "waiting": 2, "running": 1, "success": 0, "failed": 0, "cancelled": 0, "left_alone": 0,
            "removed": 0 })
    );
    let again = house.post("/api/v1/dags/pins/backfills", &range).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "{}", again.text);
    for (body, detail) in [
        (json!({ "to": "2026-01-03T00:00:00Z" }), "`from` is missing"),
        (
            json!({ "from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z" }),
            "the range ends at 2026-01-01T00:00:00Z, before it starts at 2026-01-02T00:00:00Z",
        ),
    ] {
        let answer = house.post("/api/v1/dags/pins/backfills", &body).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(answer.json()["detail"], detail);
    }
    let dates = house.get("/api/v1/backfills/1/dates?limit=2").await.json();
    assert_eq!(dates["next_after"], 2);
    assert_eq!(dates["dates"][0]["run_state"], "running");
    assert_eq!(dates["dates"][1]["state"], "waiting");
    let listed = house.get("/api/v1/backfills?dag=pins").await.json();
    assert_eq!(listed["backfills"][0]["backfill_id"], 1);
    assert_eq!(
        house.get("/api/v1/backfills/7").await.status,
        StatusCode::NOT_FOUND
    );

    let paused = house.post("/api/v1/backfills/1/pause", &json!({})).await;
    assert_eq!(paused.json()["state"], "paused");
    let resumed = house.submit("/backfills/1/resume", "").await;
    assert_eq!(
        resumed.header("location"),
        "/dags/pins/backfills?backfill=1&done=backfill_resumed"
    );
    insta::assert_snapshot!(
        "backfills",
        house.get("/dags/pins/backfills?backfill=1").await.page()
    );
    assert!(
        house
            .get("/dags/pins")
            .await
            .text
            .contains("Newest backfills")
    );
    let form = "from=2026-01-01T00:00&to=2026-01-04T00:00&reprocess=all&max_active_runs=2&backwards=1&params=&what=plan";
    let plan = house.submit("/dags/pins/backfills", form).await;
    assert_eq!(plan.status, StatusCode::OK, "{}", plan.text);
    assert!(
        plan.text
            .contains("4 dates: 3 runs to make, 0 to clear, 1 left alone"),
        "{}",
        plan.text
    );
    let wrong = house
        .submit("/dags/pins/backfills", "from=&to=&what=create")
        .await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(wrong.text.contains("the first logical date is missing"));
    let cancelled = house
        .post("/api/v1/backfills/1/cancel", &json!({ "running": true }))
        .await
        .json();
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(cancelled["progress"]["cancelled"], 3);
    let over = house.post("/api/v1/backfills/1/pause", &json!({})).await;
    assert_eq!(over.status, StatusCode::CONFLICT, "{}", over.text);
}

#[tokio::test]
async fn the_api_refuses_pools_that_do_not_fit() {
    let house = House::empty().await;
    let long = "x".repeat(201);
    for (pool, body, words) in [
        ("gpu", json!({}), "`slots` is missing"),
        ("gpu", json!({ "slots": 0 }), "1 to 2147483647 slots"),
        ("gpu", json!({ "slots": -1 }), "1 to 2147483647 slots"),
        (
            "gpu",
            json!({ "slots": 2_147_483_648_u64 }),
            "1 to 2147483647 slots",
        ),
        ("gpu", json!({ "slots": "2" }), "invalid type"),
        (
            "gpu",
            json!({ "slots": 2, "size": 3 }),
            "unknown field `size`",
        ),
        (
            "gpu",
            json!({ "slots": 2, "description": long }),
            "at most 200 characters",
        ),
        (
            "gpu",
            json!({ "slots": 2, "description": "a\nb" }),
            "one line",
        ),
        ("-gpu", json!({ "slots": 2 }), "no name for a pool"),
        ("g%20u", json!({ "slots": 2 }), "no name for a pool"),
    ] {
        let answer = house.put(&format!("/api/v1/pools/{pool}"), &body).await;
        assert_eq!(
            answer.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{pool} {body}: {}",
            answer.text
        );
        let problem = answer.json();
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains(words)),
            "{problem}"
        );
    }
    let all = house.get("/api/v1/pools").await.json();
    assert_eq!(all["pools"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn the_api_shows_workers_and_what_they_run() {
    let house = House::with_a_dag().await;
    let run = house.trigger().await;
    let list = house.get("/api/v1/workers").await.json();
    assert_eq!(list["workers"], json!([]));
    assert_eq!(
        list["unserved_queues"],
        json!([{ "queue": "default", "ready": 1 }])
    );
    let worker = house.work("host-1-4711", "eu-1", "default").await;
    let list = house.get("/api/v1/workers").await.json();
    assert_eq!(list["unserved_queues"], json!([]));
    let row = &list["workers"][0];
    assert_eq!(row["state"], "alive");
    assert_eq!(row["roles"], json!(["worker"]));
    assert_eq!(row["labels"], json!({ "zone": "eu-1" }));
    let shown = house.get(&format!("/api/v1/workers/{worker}")).await.json();
    assert_eq!(shown["name"], "host-1-4711");
    let execution = &shown["executions"][0];
    assert_eq!(
        (
            &execution["run_id"],
            &execution["task_id"],
            &execution["try"]
        ),
        (&json!(run), &json!("land"), &json!(1))
    );
    house
        .store
        .resign(pinwheel_scheduler::model::WorkerId(worker))
        .await
        .expect("it ends");
    let list = house.get("/api/v1/workers?all=true").await.json();
    assert_eq!(list["workers"][0]["state"], "ended");
    for path in ["/api/v1/workers/999", "/api/v1/workers/first"] {
        assert_eq!(
            house.get(path).await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    let odd = house.get("/api/v1/workers?al=true").await;
    assert_eq!(odd.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_form_of_pools_works_without_a_script() {
    let house = House::empty().await;
    let made = house
        .submit("/pools", "pool=gpu&slots=2&description=The+two+cards")
        .await;
    assert_eq!(
        (made.status, made.header("location")),
        (StatusCode::SEE_OTHER, "/pools?done=pool_set"),
        "{}",
        made.text
    );
    let page = house.get("/pools?pool=gpu").await.text;
    assert!(page.contains("value=\"2\"") && page.contains("value=\"The two cards\""));
    let unlimited = house.submit("/pools", "pool=gpu&slots=&description=").await;
    assert_eq!(unlimited.status, StatusCode::SEE_OTHER);
    let pool = house.get("/api/v1/pools/gpu").await.json();
    assert_eq!(
        (&pool["slots"], &pool["description"]),
        (&Value::Null, &json!(""))
    );

    for (form, words) in [
        ("pool=g+u&slots=1", "no name for a pool"),
        ("pool=gpu&slots=many", "found `many`"),
        ("pool=gpu&slots=0", "found 0"),
    ] {
        let wrong = house.submit("/pools", form).await;
        assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY, "{form}");
        assert!(wrong.text.contains(words), "{form}: {}", wrong.text);
    }
    let kept = house.submit("/pools", "pool=gpu&slots=many").await;
    assert!(
        kept.text.contains("value=\"many\""),
        "what was typed is kept"
    );

    let refused = house.submit("/pools/default/delete", "").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text.contains("The pool is needed"));
    let deleted = house.submit("/pools/gpu/delete", "").await;
    assert_eq!(deleted.header("location"), "/pools?done=pool_deleted");
}

#[tokio::test]
async fn the_api_takes_secrets_in_and_never_gives_them_out() {
    let house = House::with_a_key().await;
    let made = house
        .put(
            "/api/v1/connections/warehouse",
            &json!({ "uri": "postgres://ada:hunter2-long@db:5432/sales?token=hunter2-too", "description": "Sales" }),
        )
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let shown = json!({
        "connection_id": "warehouse", "type": "postgres", "host": "db", "port": 5432, "login": "ada",
        "has_password": true, "schema": "sales", "extra": ["token"], "description": "Sales", "source": "database",
        "updated_at": made.json()["updated_at"], "problem": null,
    });
    assert_eq!(made.json(), shown);
    let changed = house
        .put(
            "/api/v1/connections/warehouse",
            &json!({ "host": "elsewhere", "port": null }),
        )
        .await;
    assert_eq!(changed.status, StatusCode::OK);
    assert_eq!(
        (
            &changed.json()["host"],
            &changed.json()["port"],
            &changed.json()["has_password"]
        ),
        (&json!("elsewhere"), &Value::Null, &json!(true)),
        "what is left out stays"
    );
    let tested = house
        .post("/api/v1/connections/warehouse/test", &json!({}))
        .await;
    assert_eq!(
        tested.json(),
        json!({ "ok": false, "message": "postgres://ada:***@elsewhere/sales?token=*** was refused" })
    );

    for (name, body, status) in [
        ("region", json!({ "value": "eu" }), StatusCode::CREATED),
        (
            "limits",
            json!({ "value": { "rows": 5 } }),
            StatusCode::CREATED,
        ),
        (
            "api_token",
            json!({ "value": "hunter2-three" }),
            StatusCode::CREATED,
        ),
        (
            "region",
            json!({ "value": "us", "description": "Where" }),
            StatusCode::OK,
        ),
        (
            "api_token",
            json!({ "description": "For the API" }),
            StatusCode::OK,
        ),
        (
            "api_token",
            json!({ "secret": false }),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        ("empty", json!({}), StatusCode::UNPROCESSABLE_ENTITY),
        (
            "a b",
            json!({ "value": 1 }),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
    ] {
        let path = format!("/api/v1/variables/{}", name.replace(' ', "%20"));
        let answer = house.put(&path, &body).await;
        assert_eq!(answer.status, status, "{name} {body}: {}", answer.text);
    }
    let variables = house.get("/api/v1/variables").await;
    let listed: Vec<_> = variables.json()["variables"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| {
            (
                row["name"].clone(),
                row["value"].clone(),
                row["secret"].clone(),
                row["source"].clone(),
            )
        })
        .collect();
    assert_eq!(
        listed,
        [
            (
                json!("api_token"),
                Value::Null,
                json!(true),
                json!("database")
            ),
            (
                json!("limits"),
                json!({ "rows": 5 }),
                json!(false),
                json!("database")
            ),
            (
                json!("region"),
                json!("us"),
                json!(false),
                json!("database")
            ),
            (
                json!("stage"),
                json!("test"),
                json!(false),
                json!("environment")
            ),
        ]
    );
    for path in [
        "/api/v1/connections",
        "/api/v1/connections/warehouse",
        "/api/v1/variables/api_token",
        "/connections",
        "/connections?connection=warehouse",
        "/variables",
        "/variables?variable=api_token",
    ] {
        let answer = house.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert!(!answer.text.contains("hunter2"), "{path}: {}", answer.text);
    }
    let missing = house.get("/api/v1/connections/warehose").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert_eq!(missing.json()["hint"], "did you mean `warehouse`?");
    let fixed = house.delete("/api/v1/variables/stage").await;
    assert_eq!(fixed.status, StatusCode::CONFLICT, "{}", fixed.text);
    for path in [
        "/api/v1/connections/warehouse",
        "/api/v1/variables/api_token",
    ] {
        assert_eq!(house.delete(path).await.status, StatusCode::NO_CONTENT);
        assert_eq!(house.delete(path).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn connections_and_variables_are_set_by_forms_without_a_script() {
    let house = House::with_a_key().await;
    let made = house
        .submit("/connections", "connection=db&type=postgres&host=h&port=5432&login=ada&password=hunter2-long&schema=s&extra=&description=Sales")
        .await;
    assert_eq!(
        (made.status, made.header("location")),
        (StatusCode::SEE_OTHER, "/connections?done=set")
    );
    // An empty password leaves the one that is there.
    house
        .submit("/connections", "connection=db&type=postgres&host=h2&port=&login=ada&password=&schema=s&extra=&description=")
        .await;
    let shown = house.get("/api/v1/connections/db").await.json();
    assert_eq!(
        (&shown["host"], &shown["has_password"]),
        (&json!("h2"), &json!(true))
    );
    let tested = house.submit("/connections/db/test", "").await;
    assert!(
        tested.text.contains("postgres://ada:***@h2/s was refused"),
        "{}",
        tested.text
    );
    for wrong in [
        "connection=db&type=a%20b&host=&port=&login=&password=hunter2-long&schema=&extra=&description=",
        "connection=db&type=x&host=&port=many&login=&password=hunter2-long&schema=&extra=&description=",
        "connection=db&type=x&host=&port=&login=&password=hunter2-long&schema=&extra=%5B%5D&description=",
        "connection=-x&type=x&host=&port=&login=&password=hunter2-long&schema=&extra=&description=",
    ] {
        let refused = house.submit("/connections", wrong).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
        assert!(!refused.text.contains("hunter2"), "{wrong}");
    }
    let made = house
        .submit(
            "/variables",
            "variable=key&value=hunter2-long&secret=on&description=",
        )
        .await;
    assert_eq!(
        (made.status, made.header("location")),
        (StatusCode::SEE_OTHER, "/variables?done=set")
    );
    house
        .submit(
            "/variables",
            "variable=list&value=%5B1%5D&as_json=on&description=Numbers",
        )
        .await;
    // A telling name makes a secret, and a secret is not shown by a form that leaves its value out.
    house
        .submit(
            "/variables",
            "variable=db_password&value=hunter2-four&description=",
        )
        .await;
    let told = house.get("/api/v1/variables/db_password").await.json();
    assert_eq!(
        (&told["secret"], &told["value"]),
        (&json!(true), &Value::Null)
    );
    for form in [
        "variable=db_password&value=&description=&known=on",
        "variable=key&value=&description=&known=on",
    ] {
        let refused = house.submit("/variables", form).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{form}");
        assert!(!refused.text.contains("hunter2"), "{form}");
    }
    house
        .submit(
            "/variables",
            "variable=db_password&value=in%20the%20open&description=&known=on",
        )
        .await;
    let told = house.get("/api/v1/variables/db_password").await.json();
    assert_eq!(
        (&told["secret"], &told["value"]),
        (&json!(false), &json!("in the open"))
    );
    let page = house.get("/variables").await.page();
    for part in [
        "<code class=\"break\">[1]</code>",
        "*** secret",
        "Numbers",
        ">environment</td>",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = house.get("/connections?connection=db").await.page();
    for part in [
        "Change the connection db",
        "value=\"h2\"",
        "it stays as it is",
        ">***</td>",
        "/connections/db/test",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let deleted = house.submit("/variables/list/delete", "").await;
    assert_eq!(deleted.header("location"), "/variables?done=deleted");
}

#[tokio::test]
async fn without_a_key_nothing_is_kept_and_the_page_says_what_to_do() {
    let house = House::empty().await;
    let refused = house
        .put("/api/v1/variables/region", &json!({ "value": "eu" }))
        .await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(
        refused.json()["hint"]
            .as_str()
            .is_some_and(|hint| hint.contains("PINWHEEL_SECRETS_KEY"))
    );
    let refused = house
        .submit("/variables", "variable=region&value=eu&description=")
        .await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text.contains("PINWHEEL_SECRETS_KEY"));
}

#[tokio::test]
async fn metrics_tell_of_pools_queues_and_workers() {
    let house = House::with_a_dag().await;
    house
        .put("/api/v1/pools/default", &json!({ "slots": 5 }))
        .await;
    house.trigger().await;
    let waiting = house.get("/metrics").await.text;
    assert!(
        waiting.contains("pinwheel_ready_tasks{queue=\"default\"} 1"),
        "{waiting}"
    );
    assert!(waiting.contains("pinwheel_workers{state=\"alive\"} 0"));
    house.work("host-1-4711", "eu-1", "default").await;
    let running = house.get("/metrics").await.text;
    for line in [
        "pinwheel_pool_slots{pool=\"default\"} 5",
        "pinwheel_pool_slots_used{pool=\"default\"} 1",
        "pinwheel_workers{state=\"alive\"} 1",
        "pinwheel_workers{state=\"lost\"} 0",
    ] {
        assert!(running.contains(line), "{line}: {running}");
    }
    assert!(!running.contains("pinwheel_ready_tasks{"));
}

#[tokio::test]
async fn a_role_without_pages_serves_its_metrics_and_nothing_else() {
    let counter = prometheus::IntCounter::new("pinwheel_test_total", "For a test").expect("valid");
    counter.inc();
    let registry = prometheus::Registry::new();
    registry
        .register(Box::new(counter))
        .expect("it is registered once");
    let router = metrics_router(vec![Arc::new(move || registry.gather())], None);
    let ask = async |path: &str, host: &str| {
        let request = Request::builder()
            .uri(path)
            .header("host", host)
            .body(Body::empty())
            .expect("a request");
        let response = router.clone().oneshot(request).await;
        Answer::read(response.expect("the router never fails")).await
    };
    let metrics = ask("/metrics", "127.0.0.1:9100").await;
    assert_eq!(metrics.status, StatusCode::OK);
    assert!(
        metrics.text.contains("pinwheel_test_total 1"),
        "{}",
        metrics.text
    );
    assert_eq!(ask("/healthz", "localhost:9100").await.text, "ok\n");
    assert_eq!(
        ask("/", "127.0.0.1:9100").await.status,
        StatusCode::NOT_FOUND
    );
    let foreign = ask("/metrics", "evil.example").await;
    assert_eq!(foreign.status, StatusCode::MISDIRECTED_REQUEST);
    assert!(!foreign.text.contains("pinwheel_test_total"));
}

#[tokio::test]
async fn what_other_machines_could_reach_is_refused_by_name() {
    let everywhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let refused = pinwheel_web::MetricsOptions { bind: everywhere }
        .listen()
        .await
        .expect_err("anybody could read them");
    assert!(
        refused
            .to_string()
            .starts_with("`metrics.bind` is `0.0.0.0:0`")
    );
}

struct Away;

#[async_trait]
impl Check for Away {
    fn name(&self) -> &str {
        "kafka"
    }

    async fn check(&self) -> Result<(), String> {
        Err("connection refused".to_owned())
    }
}

#[tokio::test]
async fn machines_hear_what_cannot_be_reached() {
    let house = House::empty().await;
    assert_eq!(house.get("/healthz").await.text, "ok\n");
    let ready = house.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::OK, "{}", ready.text);
    let changes = Changes::listen(&house.store)
        .await
        .expect("Postgres can be listened to");
    let state = WebState::new(house.store.clone(), changes).with_check(Arc::new(Away));
    let response = router(state)
        .oneshot(
            request(Method::GET, "/readyz")
                .body(Body::empty())
                .expect("a request"),
        )
        .await;
    let ready = Answer::read(response.expect("the router never fails")).await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        ready.json(),
        json!({ "ready": false, "dependencies": [
            { "name": "postgres", "reachable": true },
            { "name": "kafka", "reachable": false, "problem": "connection refused" },
        ] })
    );
    house.get("/dags/none").await;
    let metrics = house.get("/metrics").await.text;
    assert!(
        metrics.contains(
            "pinwheel_http_requests_total{method=\"GET\",route=\"/dags/{dag}\",status=\"404\"} 1"
        ),
        "{metrics}"
    );
    assert!(!metrics.contains("/dags/none"), "no path is ever a label");
}

#[tokio::test]
async fn a_live_page_is_told_only_what_it_does_not_have() {
    use futures::StreamExt;
    let house = House::with_a_dag().await;
    let page = house.get("/dags").await.text;
    let live = page
        .split("data-live=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .expect("the page is live");
    let open = request(Method::GET, live)
        .body(Body::empty())
        .expect("a request");
    let response = house
        .router
        .clone()
        .oneshot(open)
        .await
        .expect("the router never fails");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut events = response.into_body().into_data_stream();
    // Nothing is said until something changes; then the part that changed comes.
    let answer = house.submit("/dags/pins/pause", "").await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    let event = tokio::time::timeout(Duration::from_secs(20), events.next())
        .await
        .expect("an event comes in time");
    let event = String::from_utf8(
        event
            .expect("the stream is open")
            .expect("it can be read")
            .to_vec(),
    )
    .expect("UTF-8");
    assert!(
        event.contains("event: changed") && event.contains("paused"),
        "{event}"
    );
}
