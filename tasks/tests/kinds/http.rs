//! `http` and `wait_for_http` against an axum server on loopback.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::Request,
    http::{Response, StatusCode, header},
    routing::{any, get, post},
};
use pinwheel_tasks::{FailureClass, Http, Kind, Outcome, WaitForHttp};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::world::{World, output, sleep, table};

async fn serve(routes: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the runtime of the test.
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

async fn echo(request: Request) -> Json<Value> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1_000).await.unwrap();
    let header = |name: &str| {
        let value = parts.headers.get(name);
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    Json(json!({
        "method": parts.method.as_str(),
        "query": parts.uri.query(),
        "token": header("authorization"),
        "type": header("content-type"),
        "body": String::from_utf8(body.to_vec()).unwrap(),
    }))
}

#[tokio::test]
async fn a_request_says_what_the_task_says_and_its_json_answer_is_the_output() {
    let at = serve(Router::new().route("/echo", any(echo))).await;
    let with = json!({
        "url": format!("http://{at}/echo?day=1"),
        "method": "post",
        "headers": {"Authorization": "Bearer secret"},
        "json": {"pins": [1, 2]},
    });
    let world = World::new();
    let answer = output(world.run(&Http::default(), with).await);
    assert_eq!(answer["status"], 200);
    assert_eq!(
        answer["headers"],
        json!({"content-type": "application/json"})
    );
    assert_eq!(answer["text"], Value::Null);
    assert_eq!(
        answer["json"],
        json!({
            "method": "POST", "query": "day=1", "token": "Bearer secret",
            "type": "application/json", "body": "{\"pins\":[1,2]}",
        })
    );
    let said = world.said.lock().unwrap().join("\n");
    assert!(
        !said.contains("day=1") && !said.contains("secret"),
        "{said}"
    );
}

#[tokio::test]
async fn what_may_pass_is_retried_and_what_will_not_is_final() {
    let routes = Router::new().route(
        "/{status}",
        any(
            |axum::extract::Path(status): axum::extract::Path<u16>| async move {
                (StatusCode::from_u16(status).unwrap(), "because")
            },
        ),
    );
    let at = serve(routes).await;
    for (status, class) in [
        (500, FailureClass::Retryable),
        (503, FailureClass::Retryable),
        (408, FailureClass::Retryable),
        (429, FailureClass::Retryable),
        (400, FailureClass::Permanent),
        (401, FailureClass::Permanent),
        (404, FailureClass::Permanent),
        (304, FailureClass::Permanent),
    ] {
        let url = format!("http://{at}/{status}?key=hidden");
        let failure = World::new()
            .run(&Http::default(), json!({ "url": url }))
            .await
            .unwrap_err();
        assert_eq!(failure.class, class, "{status}");
        assert_eq!(
            failure.message,
            format!("`GET http://{at}/{status}` answered {status}")
        );
    }
    for expect in [json!(404), json!("4xx"), json!(["2xx", 404])] {
        let url = format!("http://{at}/404");
        let outcome = World::new()
            .run(&Http::default(), json!({ "url": url, "expect": expect }))
            .await;
        assert_eq!(output(outcome)["text"], "because");
    }
}

#[tokio::test]
async fn no_server_and_no_answer_are_retried() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = free.local_addr().unwrap();
    drop(free);
    let silent = serve(Router::new().route("/", get(std::future::pending::<()>))).await;
    for (at, timeout) in [(nobody, "30s"), (silent, "50ms")] {
        let with = json!({"url": format!("http://{at}/?key=hidden"), "request_timeout": timeout});
        let failure = World::new().run(&Http::default(), with).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Retryable, "{failure:?}");
        assert!(!failure.message.contains("hidden"), "{}", failure.message);
    }
}

#[tokio::test]
async fn a_cancelled_request_ends_at_once() {
    let world = World::new();
    let cancel = world.cancel.clone();
    let routes = Router::new().route(
        "/",
        get(move || async move {
            // It has arrived; nobody will answer it.
            cancel.cancel();
            std::future::pending::<()>().await;
        }),
    );
    let at = serve(routes).await;
    let failure = world
        .run(&Http::default(), json!({"url": format!("http://{at}/")}))
        .await
        .unwrap_err();
    assert_eq!(failure.class, FailureClass::Cancelled);
}

#[tokio::test]
async fn a_long_text_is_cut_between_characters_and_long_json_is_refused() {
    let long = |kind: &'static str, body: String| {
        get(move || async move {
            Response::builder()
                .header(header::CONTENT_TYPE, kind)
                .body(Body::from(body))
                .unwrap()
        })
    };
    let at = serve(
        Router::new()
            .route("/text", long("text/plain", "é".repeat(100)))
            .route(
                "/json",
                long("application/json", format!("[{}1]", "1,".repeat(100))),
            ),
    )
    .await;
    let run = async |path: &str, limit: u64| {
        let with = json!({"url": format!("http://{at}/{path}"), "limit": limit});
        World::new().run(&Http::default(), with).await
    };
    let cut = output(run("text", 101).await);
    assert_eq!(
        (&cut["text"], &cut["is_cut"]),
        (&json!("é".repeat(50)), &json!(true))
    );
    assert_eq!(output(run("json", 500).await)["json"][100], 1);
    let failure = run("json", 100).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
    assert_eq!(output(run("json", 0).await)["text"], "");
}

#[test]
fn a_request_that_cannot_be_is_refused_when_the_file_is_read() {
    for with in [
        json!({"url": "ftp://host/"}),
        json!({"url": "host"}),
        json!({"url": "http://host/", "body": "x", "json": 1}),
        json!({"url": "http://host/", "expect": "ok"}),
        json!({"url": "http://host/", "expect": [200, 9]}),
        json!({"url": "http://host/", "method": "GET /"}),
        json!({"url": "http://host/", "limit": 1_000_000}),
    ] {
        assert_eq!(
            Http::default().check(&table(with.clone())).len(),
            1,
            "{with}"
        );
    }
    let templates = json!({"url": "{{ params.url }}", "method": "{{ params.method }}", "expect": ["{{ params.ok }}"]});
    assert!(Http::default().check(&table(templates)).is_empty());
}

#[tokio::test]
async fn a_sensor_sees_the_value_it_waits_for() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&asked);
    let states = [
        (StatusCode::NOT_FOUND, json!(null)),
        (StatusCode::SERVICE_UNAVAILABLE, json!(null)),
        (StatusCode::OK, json!({"job": {"state": "running"}})),
        (StatusCode::OK, json!({"job": {"state": "done"}})),
    ];
    let routes = Router::new().route(
        "/",
        post(move || async move {
            let (status, body) = states[counting.fetch_add(1, Ordering::SeqCst)].clone();
            (status, Json(body))
        }),
    );
    let at = serve(routes).await;
    let world = World::new();
    let with = json!({
        "url": format!("http://{at}/"), "method": "POST",
        "pointer": "/job/state", "equals": "done", "poke_interval": "5m",
    });
    let kind = WaitForHttp::default();
    let mut resume = None;
    for why in [
        format!("`POST http://{at}/` answered 404 (after 1 look)"),
        format!("`POST http://{at}/` answered 503 (after 2 looks)"),
        format!("`/job/state` of `POST http://{at}/` is \"running\" (after 3 looks)"),
    ] {
        let (wake_after, reason, left) = sleep(world.resume(&kind, with.clone(), resume).await);
        assert_eq!((wake_after, reason), (Duration::from_secs(300), why));
        world.advance(wake_after);
        resume = Some(left);
    }
    let outcome = world.resume(&kind, with, resume).await;
    assert_eq!(output(outcome), json!({"status": 200, "value": "done"}));
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_time_out_counts_from_the_first_look_across_sleeps() {
    // Nobody answers: that is not yet, and no failure.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = free.local_addr().unwrap();
    drop(free);
    for soft_fail in [false, true] {
        let world = World::new();
        let with = json!({
            "url": format!("http://{at}/"), "poke_interval": "40m", "timeout": "1h", "soft_fail": soft_fail,
        });
        let kind = WaitForHttp::default();
        let (first, _, resume) = sleep(world.run(&kind, with.clone()).await);
        assert_eq!(first, Duration::from_secs(40 * 60));
        world.advance(first);
        let (second, _, resume) = sleep(world.resume(&kind, with.clone(), Some(resume)).await);
        assert_eq!(
            second,
            Duration::from_secs(20 * 60),
            "not past its time-out"
        );
        world.advance(second);
        let begins = "gave up after 1h and 3 looks: ";
        match world.resume(&kind, with, Some(resume)).await {
            Ok(Outcome::Skipped { reason }) if soft_fail => {
                assert!(reason.starts_with(begins), "{reason}");
            }
            Err(failure) if !soft_fail => {
                assert_eq!(failure.class, FailureClass::Permanent);
                assert!(failure.message.starts_with(begins), "{failure:?}");
            }
            other => panic!("{soft_fail}: {other:?}"),
        }
    }
}

#[test]
fn a_sensor_that_would_look_all_the_time_is_refused() {
    let with = json!({"url": "http://host/", "poke_interval": "10ms"});
    assert_eq!(WaitForHttp::default().check(&table(with)).len(), 1);
    let with = json!({"url": "http://host/", "equals": 1});
    assert_eq!(WaitForHttp::default().check(&table(with)).len(), 1);
    let with = json!({"url": "http://host/", "pointer": "a"});
    assert_eq!(WaitForHttp::default().check(&table(with)).len(), 1);
}
