//! Channels against real servers: HTTP and SMTP on loopback, with an engine and Postgres behind them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    routing::post,
};
use chrono::{TimeDelta, Utc};
use pinwheel_scheduler::{
    engine::{Clock, Courier, Delivery, Engine, Options, Roles, ShiftedClock},
    model::{
        DagId, Event, MessageId, RunId, dag_file,
        message::{Detail, Message, Notification, TaskDetail},
    },
    store::{MessageFilter, MessageState, NewRun, Store},
};
use pinwheel_tasks::Registry;
use pinwheel_test_support::{
    postgres::Postgres,
    proxy::Proxy,
    smtp::{MailServer, Security},
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use super::{ChannelTable, Channels};

const WEB: &str = "http://pinwheel.example.com";

fn channels(toml: &str) -> Channels {
    let tables: BTreeMap<String, ChannelTable> = toml::from_str(toml).expect("the table is valid");
    Channels::read(tables, WEB.to_owned()).expect("the channels are valid")
}

fn message(channel: &str) -> Message {
    let happened_at = "2026-01-02T02:10:00Z".parse().expect("an instant");
    Message {
        message_id: MessageId(7),
        dag_id: DagId::new("pins_daily").expect("a name"),
        event: Event::Failure,
        channel: channel.to_owned(),
        made_at: happened_at,
        attempt: 1,
        count: 1,
        notifications: vec![Notification {
            run_id: Some(RunId(17)),
            happened_at,
            detail: Detail {
                failed: vec![TaskDetail {
                    task: "load".to_owned(),
                    try_number: Some(2),
                    reason: Some("no table `pins` & <nothing> else".to_owned()),
                    ..TaskDetail::default()
                }],
                failed_tasks: 1,
                ..Detail::default()
            },
        }],
    }
}

/// What was posted.
struct Posted {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Posted {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("it is JSON")
    }
}

/// A web server that keeps what is posted and answers with the status it is told to.
struct Server {
    port: u16,
    status: Arc<AtomicU16>,
    posted: mpsc::UnboundedReceiver<Posted>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Kept {
    status: Arc<AtomicU16>,
    posted: mpsc::UnboundedSender<Posted>,
}

impl Server {
    async fn start() -> Self {
        Self::on("127.0.0.1:0").await
    }

    async fn on(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let status = Arc::new(AtomicU16::new(200));
        let (sender, posted) = mpsc::unbounded_channel();
        let kept = Kept {
            status: Arc::clone(&status),
            posted: sender,
        };
        let router = Router::new().route("/{*path}", post(keep)).with_state(kept);
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves");
        });
        Self {
            port,
            status,
            posted,
            serving,
        }
    }

    fn answer(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::SeqCst);
    }

    async fn next(&mut self) -> Posted {
        tokio::time::timeout(Duration::from_secs(60), self.posted.recv())
            .await
            .expect("something is posted within a minute")
            .expect("the server runs")
    }

    /// Ends it; its port refuses from then on.
    async fn end(self) {
        self.serving.abort();
        let _aborted = self.serving.await;
    }
}

async fn keep(
    State(kept): State<Kept>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, [(&'static str, &'static str); 1], &'static str) {
    let posted = Posted {
        path: uri.path().to_owned(),
        headers,
        body,
    };
    // A test that has ended reads no more.
    let _unread = kept.posted.send(posted);
    let status = StatusCode::from_u16(kept.status.load(Ordering::SeqCst)).expect("a status");
    (status, [("location", "http://127.0.0.1:1/")], "so it is\n")
}

#[tokio::test]
async fn a_webhook_gets_a_signed_document_that_says_everything() {
    let mut server = Server::start().await;
    let channels = channels(&format!(
        "[ops]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{}/hook\"\nsecret = \"shh\"\n",
        server.port
    ));
    channels
        .deliver(&message("ops"))
        .await
        .expect("it is delivered");
    let posted = server.next().await;
    assert_eq!(posted.path, "/hook");
    let header = |name: &str| posted.headers[name].to_str().expect("it is text");
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("x-pinwheel-message"), "7");
    assert_eq!(header("x-pinwheel-event"), "failure");
    assert_eq!(
        header("x-pinwheel-signature"),
        super::webhook::sign("shh", &posted.body),
        "over the very bytes"
    );
    let json = posted.json();
    assert_eq!(
        (&json["id"], &json["dag"]),
        (&7.into(), &"pins_daily".into())
    );
    assert_eq!(json["notifications"][0]["failed"][0]["try"], 2);
    assert_eq!(json["notifications"][0]["link"], format!("{WEB}/runs/17"));
}

#[tokio::test]
async fn slack_gets_a_text_without_markup_of_the_error() {
    let mut server = Server::start().await;
    let channels = channels(&format!(
        "[team]\nkind = \"slack\"\nurl = \"http://127.0.0.1:{}/services/T0/B0/secret\"\n",
        server.port
    ));
    channels
        .deliver(&message("team"))
        .await
        .expect("it is delivered");
    let json = server.next().await.json();
    let text = json["text"].as_str().expect("a text");
    assert_eq!(json.as_object().expect("an object").len(), 1);
    assert!(
        text.contains("Run 17 of pins_daily failed.") && text.contains("&amp; &lt;nothing&gt;"),
        "{text}"
    );
}

#[tokio::test]
async fn a_server_that_refuses_redirects_or_is_away_is_an_error_without_its_address() {
    let server = Server::start().await;
    let channels = channels(&format!(
        "[ops]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{}/secret-path\"\n",
        server.port
    ));
    let deliver = async || {
        let error = channels
            .deliver(&message("ops"))
            .await
            .expect_err("it does not arrive");
        assert!(!error.contains("secret-path"), "{error}");
        error
    };
    server.answer(StatusCode::INTERNAL_SERVER_ERROR);
    let error = deliver().await;
    assert_eq!(
        error,
        "the server answered 500 Internal Server Error: so it is"
    );
    // Nobody follows where the server points.
    server.answer(StatusCode::TEMPORARY_REDIRECT);
    assert!(deliver().await.contains("307"));
    server.end().await;
    let error = deliver().await;
    assert!(error.starts_with("the server cannot be reached"), "{error}");
    let error = channels
        .deliver(&message("nobody"))
        .await
        .expect_err("there is no such channel");
    assert!(error.contains("notify.channels.nobody"), "{error}");
}

#[tokio::test]
async fn mail_arrives_by_each_kind_of_connection() {
    for (security, word) in [
        (Security::None, "none"),
        (Security::Starttls, "starttls"),
        (Security::Tls, "tls"),
    ] {
        let login = (security != Security::None).then_some(("pinwheel", "pässword"));
        let server = MailServer::start(security, login).await;
        let folder = tempfile::tempdir().expect("a folder");
        let ca = folder.path().join("ca.pem");
        server.write_authority(&ca);
        let mut toml = format!(
            "[mail]\nkind = \"email\"\nhost = \"localhost\"\nport = {}\nsecurity = \"{word}\"\n\
            from = \"Pinwheel <pinwheel@example.com>\"\nto = [\"ops@example.com\", \"Team <team@example.com>\"]\n",
            server.port()
        );
        if let Some((user, password)) = login {
            toml += &format!(
                "user = \"{user}\"\npassword = \"{password}\"\nca = \"{}\"\n",
                ca.display()
            );
        }
        let channels = channels(&toml);
        channels
            .deliver(&message("mail"))
            .await
            .unwrap_or_else(|error| panic!("{word}: {error}"));
        let mails = server.mails(1).await;
        let mail = &mails[0];
        assert_eq!(mail.from, "pinwheel@example.com");
        assert_eq!(mail.to, ["ops@example.com", "team@example.com"]);
        assert_eq!(mail.user.as_deref(), login.map(|(user, _)| user));
        assert!(
            mail.text
                .contains("Subject: [Pinwheel] failure: pins_daily")
                && mail.text.contains("Message-ID: <pinwheel.7.")
                && mail.text.contains("no table `pins` & <nothing> else"),
            "{}",
            mail.text
        );
    }
}

#[tokio::test]
async fn mail_goes_to_nobody_whose_certificate_or_login_is_wrong() {
    let server = MailServer::start(Security::Starttls, Some(("pinwheel", "right"))).await;
    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("ca.pem");
    server.write_authority(&ca);
    let with = |more: &str| {
        channels(&format!(
            "[mail]\nkind = \"email\"\nhost = \"localhost\"\nport = {}\nfrom = \"a@example.com\"\n\
            to = [\"b@example.com\"]\nuser = \"pinwheel\"\n{more}",
            server.port()
        ))
    };
    let stranger = with("password = \"right\"\n");
    let error = stranger
        .deliver(&message("mail"))
        .await
        .expect_err("the system trusts no such authority");
    assert!(error.to_lowercase().contains("certificate"), "{error}");
    let wrong = with(&format!(
        "password = \"wrong-word\"\nca = \"{}\"\n",
        ca.display()
    ));
    let error = wrong
        .deliver(&message("mail"))
        .await
        .expect_err("the password is wrong");
    assert!(
        error.contains("535") && !error.contains("wrong-word"),
        "{error}"
    );
    server.refuse();
    let right = with(&format!(
        "password = \"right\"\nca = \"{}\"\n",
        ca.display()
    ));
    let error = right
        .deliver(&message("mail"))
        .await
        .expect_err("it is refused");
    assert!(
        error.contains("451") || error.contains("not now"),
        "{error}"
    );
    server.accept();
    right
        .deliver(&message("mail"))
        .await
        .expect("it is accepted again");
    assert_eq!(server.mails(1).await.len(), 1);
}

#[tokio::test]
async fn a_test_message_says_that_it_is_one() {
    let mut server = Server::start().await;
    let channels = channels(&format!(
        "[ops]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{}/hook\"\n",
        server.port
    ));
    channels
        .deliver(&Message::test("ops", Utc::now()))
        .await
        .expect("it is delivered");
    let json = server.next().await.json();
    assert_eq!(
        (&json["event"], &json["dag"]),
        (&"test".into(), &Value::Null)
    );
}

/// An engine over an empty Postgres with a DAG whose one task fails, and a channel `ops`.
struct House {
    store: Store,
    clock: Arc<ShiftedClock>,
    registry: Registry,
    delivery: Delivery,
}

impl House {
    async fn new(channels: Channels) -> Self {
        let prepare = async |url: String| {
            let store = Store::connect(&url).await.expect("the store connects");
            store.migrate().await.expect("the migrations apply");
        };
        let url = Postgres::shared().fresh_database(prepare).await;
        let store = Store::connect(&url).await.expect("the store connects");
        let registry = Registry::new(pinwheel_tasks::light_kinds());
        let source = "[dag]\nid = \"broken\"\n\n[tasks.a]\nkind = \"shell\"\nwith = { command = [\"false\"] }\n\n\
            [[notify]]\non = [\"failure\"]\nto = \"ops\"\n";
        let dag = dag_file::load("broken.toml", source.as_bytes(), &registry).expect("it is good");
        store
            .publish("broken.toml", source, &dag)
            .await
            .expect("it is published");
        Self {
            store,
            clock: Arc::new(ShiftedClock::default()),
            registry,
            delivery: Delivery::by(channels),
        }
    }

    async fn engine(&self) -> Engine {
        let options = Options {
            heartbeat: Duration::from_millis(500),
            grace: Duration::from_millis(50),
            delivery: self.delivery.clone(),
            ..Options::default()
        };
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        Engine::start(
            self.store.clone(),
            self.registry.clone(),
            Roles::Both,
            options,
            clock,
        )
        .await
        .expect("the engine starts")
    }

    async fn trigger(&self, engine: &Engine) {
        let run = NewRun {
            dag_id: DagId::new("broken").expect("a name"),
            kind: pinwheel_scheduler::model::RunKind::Manual,
            logical_date: None,
            params: pinwheel_scheduler::model::Params::new(),
            triggered_by: "a test".to_owned(),
        };
        self.store.trigger(run).await.expect("the run is made");
        engine.bell().ring();
    }

    /// Waits until the newest message is in that state, tried so often.
    async fn becomes(&self, engine: &Engine, state: MessageState, attempts: i32) {
        let mut changes = engine.changes();
        let filter = MessageFilter {
            limit: 1,
            ..MessageFilter::default()
        };
        let wait = async {
            loop {
                let rows = self
                    .store
                    .messages(&filter)
                    .await
                    .expect("Postgres is there");
                if rows
                    .iter()
                    .any(|row| row.state() == state && row.attempts == attempts)
                {
                    return;
                }
                let _changed =
                    tokio::time::timeout(Duration::from_millis(500), changes.next()).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .expect("it gets there within a minute");
    }
}

#[tokio::test]
async fn a_message_waits_for_a_server_that_is_down_and_arrives_when_it_is_back() {
    let server = Server::start().await;
    let port = server.port;
    server.end().await;
    let house = House::new(channels(&format!(
        "[ops]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{port}/hook\"\n"
    )))
    .await;
    let engine = house.engine().await;
    house.trigger(&engine).await;
    house.becomes(&engine, MessageState::Failing, 1).await;
    house.clock.advance(TimeDelta::seconds(6));
    house.becomes(&engine, MessageState::Failing, 2).await;
    let mut server = Server::on(&format!("127.0.0.1:{port}")).await;
    server.answer(StatusCode::INTERNAL_SERVER_ERROR);
    house.clock.advance(TimeDelta::seconds(11));
    house.becomes(&engine, MessageState::Failing, 3).await;
    server.answer(StatusCode::NO_CONTENT);
    house.clock.advance(TimeDelta::seconds(21));
    house.becomes(&engine, MessageState::Delivered, 4).await;
    let attempts = [server.next().await.json(), server.next().await.json()];
    assert_eq!(attempts[0]["id"], attempts[1]["id"], "the same message");
    assert_eq!(attempts[1]["attempt"], 4);
    engine.stop().await;
}

#[tokio::test]
async fn a_message_whose_sender_died_before_it_said_so_is_delivered_again() {
    let mut server = Server::start().await;
    let channels = channels(&format!(
        "[ops]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{}/hook\"\n",
        server.port
    ));
    let house = House::new(channels.clone()).await;
    // One that runs tasks and tells nobody.
    let silent = House {
        delivery: Delivery::default(),
        store: house.store.clone(),
        clock: Arc::clone(&house.clock),
        registry: house.registry.clone(),
    };
    let engine = silent.engine().await;
    house.trigger(&engine).await;
    silent.becomes(&engine, MessageState::Waiting, 0).await;
    // A process that sends and is killed before it records.
    let leased = house
        .store
        .lease_messages(8, TimeDelta::zero())
        .await
        .expect("Postgres is there");
    channels
        .deliver(&leased[0])
        .await
        .expect("the server is there");
    let first = server.next().await.json();
    engine.stop().await;
    let engine = house.engine().await;
    house.clock.advance(TimeDelta::seconds(61));
    house.becomes(&engine, MessageState::Delivered, 2).await;
    let second = server.next().await.json();
    assert_eq!(first["id"], second["id"]);
    assert_eq!(
        (&first["attempt"], &second["attempt"]),
        (&1.into(), &2.into())
    );
    engine.stop().await;
}

#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing_holds_up_no_run() {
    let server = Server::start().await;
    let address = format!("127.0.0.1:{}", server.port)
        .parse()
        .expect("an address");
    let proxy = Proxy::start(address).await;
    proxy.stall();
    let house = House::new(channels(&format!(
        "[ops]\nkind = \"webhook\"\nurl = \"http://{}/hook\"\n",
        proxy.address()
    )))
    .await;
    let engine = house.engine().await;
    house.trigger(&engine).await;
    house.becomes(&engine, MessageState::Waiting, 1).await;
    let mut changes = engine.changes();
    house.trigger(&engine).await;
    let filter = pinwheel_scheduler::store::RunFilter {
        states: vec![pinwheel_scheduler::model::RunState::Failed],
        limit: 10,
        ..pinwheel_scheduler::store::RunFilter::default()
    };
    while house
        .store
        .runs(&filter)
        .await
        .expect("Postgres is there")
        .len()
        < 2
    {
        let _changed = tokio::time::timeout(Duration::from_millis(500), changes.next()).await;
    }
    proxy.heal();
    house.becomes(&engine, MessageState::Delivered, 1).await;
    engine.stop().await;
}
