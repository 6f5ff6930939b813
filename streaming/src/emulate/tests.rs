//! The emulator against a server that answers what the test says. That pins arrive is proved end to end.

use std::sync::Mutex;

use axum::{
    Router,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::post,
};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::*;

type Bodies = Arc<Mutex<Vec<Vec<u8>>>>;
type Answer = fn(usize, &[u8]) -> Response;

/// Keeps the bodies of all requests, opened, and answers each as the function says.
struct Kept {
    url: String,
    bodies: Bodies,
    server: tokio::task::JoinHandle<()>,
}

impl Kept {
    async fn start(answer: Answer) -> Self {
        async fn keep(
            State((bodies, answer)): State<(Bodies, Answer)>,
            headers: HeaderMap,
            body: Bytes,
        ) -> Response {
            let mut opened = Vec::new();
            if headers
                .get("content-encoding")
                .is_some_and(|encoding| encoding == "gzip")
            {
                std::io::Read::read_to_end(&mut GzDecoder::new(&body[..]), &mut opened)
                    .expect("gzip");
            } else {
                opened.extend_from_slice(&body);
            }
            let mut bodies = bodies.lock().expect("no panic");
            let answered = answer(bodies.len(), &opened);
            bodies.push(opened);
            answered
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let bodies = Bodies::default();
        let router = Router::new()
            .route("/", post(keep))
            .with_state((Arc::clone(&bodies), answer));
        let server =
            tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        Self {
            url,
            bodies,
            server,
        }
    }

    fn end(self) -> Vec<String> {
        self.server.abort();
        let bodies = self.bodies.lock().expect("no panic");
        bodies
            .iter()
            .map(|body| String::from_utf8(body.clone()).expect("text"))
            .collect()
    }
}

fn all_accepted(body: &[u8]) -> Response {
    let lines = body.split(|byte| *byte == b'\n').count();
    let results = vec![serde_json::json!({"status": 200}); lines];
    axum::Json(serde_json::json!({"results": results})).into_response()
}

async fn posted(options: EmulateOptions) -> Emulated {
    run(options, |_| {}, CancellationToken::new())
        .await
        .expect("posted")
}

#[tokio::test]
async fn the_original_order_posts_the_real_pins_first() {
    let kept = Kept::start(|_, _| StatusCode::OK.into_response()).await;
    let source = Source::Rows(Arc::new(Population::default()), rows::LAST_ROW + 1);
    let mut options = EmulateOptions::of(kept.url.clone(), source);
    options.order = Order::Original {
        seed: rows::ORIGINAL_SEED,
    };
    options.count = Some(210);
    options.concurrency = 1;
    options.rate = Some(1e6);
    assert_eq!(posted(options).await.accepted, 210);
    let bodies = kept.end();
    let real: Vec<&str> = include_str!("../../../data/pins.ndjson").lines().collect();
    assert_eq!(bodies[..200], real);
    for body in &bodies[200..] {
        assert!(crate::ingest::check(body.as_bytes()).is_ok(), "{body}");
    }
}

#[tokio::test]
async fn batches_hold_every_pin_once_and_the_last_may_be_smaller() {
    let kept = Kept::start(|_, body| all_accepted(body)).await;
    let population = Arc::new(Population::default());
    let mut options =
        EmulateOptions::of(kept.url.clone(), Source::Rows(Arc::clone(&population), 25));
    options.form = Form::Batch {
        pins: 10,
        encoding: Encoding::Gzip,
    };
    options.concurrency = 1;
    assert_eq!(posted(options).await.accepted, 25);
    let bodies = kept.end();
    let sizes: Vec<usize> = bodies.iter().map(|body| body.lines().count()).collect();
    assert_eq!(sizes, [10, 10, 5]);
    let indices: Vec<u64> = bodies
        .iter()
        .flat_map(|body| body.lines())
        .map(|line| {
            let pin: Value = serde_json::from_str(line).expect("JSON");
            pin["index"].as_u64().expect("a row")
        })
        .collect();
    assert_eq!(indices, (0..25).collect::<Vec<u64>>());
}

#[tokio::test]
async fn only_the_items_that_were_held_back_are_posted_again() {
    let kept = Kept::start(|request, body| {
        if request > 0 {
            return all_accepted(body);
        }
        let results = [200, 429, 422, 503]
            .map(|status| serde_json::json!({"status": status, "detail": "why"}));
        (
            StatusCode::MULTI_STATUS,
            [(header::RETRY_AFTER, "0")],
            axum::Json(serde_json::json!({"results": results})),
        )
            .into_response()
    })
    .await;
    let mut options = EmulateOptions::new(kept.url.clone(), "a\nb\nc\nd");
    options.form = Form::Batch {
        pins: 4,
        encoding: Encoding::Identity,
    };
    let emulated = posted(options).await;
    assert_eq!((emulated.accepted, emulated.retried), (3, 1));
    assert_eq!(emulated.refused.len(), 1);
    assert_eq!(
        (emulated.refused[0].line, emulated.refused[0].status),
        (3, Some(422))
    );
    assert_eq!(kept.end(), ["a\nb\nc\nd", "b\nd"]);
}
