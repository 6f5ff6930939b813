//! A scheduler that is killed while it delivers a message: the next one delivers it again.

use std::fs;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use pinwheel_test_support::postgres::Postgres;
use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection};
use std::sync::Arc;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
};

use crate::{
    harness::{fresh_directory, pinwheel},
    process::{Process, eventually},
};

/// A run of it misses its deadline, because nobody runs its task.
const LATE: &str = r#"[dag]
id = "late"

[tasks.a]
kind = "noop"

[[deadline]]
name = "at once"
from = "queued"
after = "1ms"

[[notify]]
on = ["deadline"]
to = "ops"
"#;

#[derive(Clone)]
struct Hook {
    posted: mpsc::UnboundedSender<(String, Value)>,
    /// An answer is given for each permit.
    answers: Arc<Semaphore>,
}

async fn hook(State(hook): State<Hook>, headers: HeaderMap, Json(body): Json<Value>) -> StatusCode {
    let number = headers["x-pinwheel-message"]
        .to_str()
        .expect("it is text")
        .to_owned();
    hook.posted
        .send((number, body))
        .expect("the test still listens");
    hook.answers
        .acquire()
        .await
        .expect("it is never closed")
        .forget();
    StatusCode::OK
}

#[tokio::test]
async fn a_message_outlives_the_scheduler_that_was_killed_while_it_sent_it() {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a loopback port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let (posted, mut posts) = mpsc::unbounded_channel();
    let answers = Arc::new(Semaphore::new(0));
    let router = Router::new().route("/hook", post(hook)).with_state(Hook {
        posted,
        answers: Arc::clone(&answers),
    });
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });

    let url = Postgres::shared().empty_database().await;
    let folder = fresh_directory("notifications");
    let dags = folder.join("dags");
    fs::create_dir(&dags).expect("the folder is new");
    fs::write(dags.join("late.toml"), LATE).expect("the folder is ours");
    let settings = folder.join("pinwheel.toml");
    let channel = format!(
        "[web]\nurl = \"https://pinwheel.example.com\"\n\n\
        [notify.channels.ops]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{port}/hook\"\n"
    );
    fs::write(&settings, channel).expect("the folder is ours");
    let environment = [
        ("PINWHEEL_DATABASE_URL", url.clone()),
        ("PINWHEEL_CONFIG", settings.display().to_string()),
        ("PINWHEEL_DAGS_FOLDER", dags.display().to_string()),
    ];
    let scheduler =
        |log: &str| Process::start(&["scheduler"], &environment, &folder, folder.join(log));
    let client = |arguments: &[&str]| {
        let output = pinwheel(arguments, &folder, &["--database-url", &url]);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice::<Value>(&output.stdout).expect("it prints JSON")
    };

    let mut first = scheduler("first.log");
    first.ready().await;
    client(&["dags", "trigger", "late", "--json"]);
    let (number, body) = posts.recv().await.expect("the hook serves");
    assert_eq!(
        (&body["event"], &body["attempt"]),
        (&"deadline".into(), &1.into())
    );
    assert_eq!(body["notifications"][0]["deadline"], "at once");
    assert_eq!(
        body["notifications"][0]["link"],
        "https://pinwheel.example.com/runs/1"
    );
    first.kill();
    // It has sent the message and will never say so. Its lease is over:
    let mut database = PgConnection::connect(&url)
        .await
        .expect("Postgres is there");
    database
        .execute("update message set next_at = clock_timestamp() where delivered_at is null")
        .await
        .expect("the message is there");

    answers.add_permits(2);
    let mut second = scheduler("second.log");
    second.ready().await;
    let (again, body) = posts.recv().await.expect("the hook serves");
    assert_eq!((again, &body["attempt"]), (number, &2.into()));
    let message = eventually("the message is delivered", async || {
        let listed = client(&["notifications", "list", "--json"]);
        let message = listed["messages"][0].clone();
        (!message["delivered_at"].is_null()).then_some(message)
    })
    .await;
    assert_eq!(message["attempts"], 2);
    assert!(posts.try_recv().is_err(), "and not once more");
    second.kill();
    serving.abort();
}
