//! HBase's REST gateway: the three requests that writing needs, our own time-outs, and the wait for a gateway or a master that is
//! away. This file decides what an answer means. Every request may be repeated: a table is created once, and cells carry their own
//! timestamps or the same values.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{Client, RequestBuilder, StatusCode, Url, header};
use serde::Deserialize;
use serde_json::json;

use crate::{Connection, Context, Failure, FailureClass};

/// The gateway answers 500 to what it cannot read and, rarely, while a region moves.
const MOST_SERVER_ERRORS: u32 = 5;
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Where a gateway is.
pub(super) struct Address {
    base: Url,
    /// Without the password.
    called: String,
    login: Option<(String, Option<String>)>,
}

/// A REST gateway.
pub(super) struct Gateway {
    client: Client,
    address: Address,
    /// How long HBase may be away before the try fails.
    patience: Duration,
    repeated: AtomicU64,
}

/// What creating a table did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Created,
    AlreadyThere,
}

/// The part of a table's schema that we look at.
#[derive(Deserialize)]
struct Schema {
    #[serde(default, rename = "ColumnSchema")]
    families: Vec<Family>,
}

#[derive(Deserialize)]
struct Family {
    name: String,
}

/// Why a request was not done, as one answer tells.
enum Trouble {
    /// HBase is away or overloaded: the same request may be done later.
    Away(String),
    /// It cannot be done; the words are the gateway's.
    Refused(StatusCode, String),
}

impl Address {
    /// Reads an address such as `http://user:password@host:8080`.
    pub(super) fn parse(url: &str) -> Result<Self, Failure> {
        let refuse = || {
            Failure::permanent("`url` is no address of an HBase REST gateway")
                .with_hint("write it as `http://host:8080`")
        };
        let mut base = Url::parse(url.trim()).map_err(|_| refuse())?;
        let host = base.host_str().ok_or_else(refuse)?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(refuse());
        }
        let port = base
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        let called = format!("{}://{host}{port}", base.scheme());
        let login = (!base.username().is_empty()).then(|| {
            let password = base.password().map(percent_decoded);
            (percent_decoded(base.username()), password)
        });
        // Neither can fail on an address with a host.
        let _without_login = (base.set_username(""), base.set_password(None));
        Ok(Self {
            base,
            called,
            login,
        })
    }

    /// The address that a connection means.
    pub(super) fn of_connection(id: &str, connection: &Connection) -> Result<Self, Failure> {
        let scheme = match connection.connection_type.as_str() {
            "hbase" | "http" => "http",
            "https" => "https",
            other => {
                return Err(Failure::permanent(format!(
                    "connection `{id}` is of type `{other}`, not `hbase`, `http` or `https`"
                ))
                .with_hint("name another one, or change its type"));
            }
        };
        let url = Connection {
            connection_type: scheme.to_owned(),
            extra: Default::default(),
            ..connection.clone()
        };
        Self::parse(&url.uri())
    }
}

impl Gateway {
    /// A gateway whose requests may take `request_timeout` each: while its master is down it would itself keep us for more
    /// than a minute.
    pub(super) fn new(
        address: Address,
        request_timeout: Duration,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let client = Client::builder()
            .user_agent(concat!("pinwheel/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5).min(request_timeout))
            .timeout(request_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .build()
            .map_err(|error| {
                Failure::retryable(format!("the HTTP client cannot be made: {error}"))
            })?;
        Ok(Self {
            client,
            address,
            patience,
            repeated: AtomicU64::new(0),
        })
    }

    /// How messages call it.
    pub(super) fn called(&self) -> &str {
        &self.address.called
    }

    /// How many requests had to be sent again.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Creates a table with these families, unless there is one; that one must have them all. It is never changed.
    pub(super) async fn ensure_table(
        &self,
        context: &Context,
        table: &str,
        families: &[&str],
    ) -> Result<Table, Failure> {
        let doing = format!("look for table `{table}`");
        let ask = || {
            self.request(reqwest::Method::GET, &[table, "schema"])
                .header(header::ACCEPT, "application/json")
        };
        match self.until_done(context, &doing, ask).await? {
            Ok(body) => {
                let schema: Schema = serde_json::from_slice(&body).map_err(|error| {
                    Failure::permanent(format!(
                        "{} does not answer as an HBase REST gateway: {error}",
                        self.address.called
                    ))
                    .with_hint(
                        "`url` is the address of the REST gateway, not of the master's pages",
                    )
                })?;
                let there: Vec<&str> = schema
                    .families
                    .iter()
                    .map(|one| one.name.as_str())
                    .collect();
                match families.iter().find(|family| !there.contains(*family)) {
                    None => Ok(Table::AlreadyThere),
                    Some(missing) => Err(Failure::permanent(format!(
                        "table `{table}` has no column family `{missing}`"
                    ))
                    .with_hint(format!(
                        "its families are {}; a table that exists is never changed: add the family in the HBase shell, or write into another",
                        there.join(", ")
                    ))),
                }
            }
            Err((StatusCode::NOT_FOUND, _)) => {
                self.create_table(context, table, families).await?;
                Ok(Table::Created)
            }
            Err((status, words)) => Err(self.refused(&doing, status, &words)),
        }
    }

    /// POST adds to a table that somebody else made meanwhile; PUT would replace it.
    async fn create_table(
        &self,
        context: &Context,
        table: &str,
        families: &[&str],
    ) -> Result<(), Failure> {
        let doing = format!("create table `{table}`");
        let families: Vec<_> = families
            .iter()
            .map(|name| json!({ "name": name }))
            .collect();
        let schema = Bytes::from(json!({ "name": table, "ColumnSchema": families }).to_string());
        let ask = || {
            self.request(reqwest::Method::POST, &[table, "schema"])
                .header(header::CONTENT_TYPE, "application/json")
                .body(schema.clone())
        };
        match self.until_done(context, &doing, ask).await? {
            Ok(_) | Err((StatusCode::NOT_MODIFIED, _)) => Ok(()),
            Err((status, words)) => Err(self.refused(&doing, status, &words)),
        }
    }

    /// Writes encoded rows ([`super::cells`]).
    pub(super) async fn put(
        &self,
        context: &Context,
        table: &str,
        rows: &Bytes,
    ) -> Result<(), Failure> {
        let doing = format!("write rows into table `{table}`");
        let ask = || {
            // The rows name themselves; the path only needs some key.
            self.request(reqwest::Method::PUT, &[table, "rows"])
                .header(header::CONTENT_TYPE, "application/x-protobuf")
                .body(rows.clone())
        };
        match self.until_done(context, &doing, ask).await? {
            Ok(_) => Ok(()),
            Err((status, words)) => Err(self.refused(&doing, status, &words)),
        }
    }

    fn request(&self, method: reqwest::Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.address.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = self.client.request(method, url);
        match &self.address.login {
            Some((login, password)) => request.basic_auth(login, password.as_deref()),
            None => request,
        }
    }

    /// Sends a request until it is done or refused, as long as patience lasts.
    async fn until_done(
        &self,
        context: &Context,
        doing: &str,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Result<Bytes, (StatusCode, String)>, Failure> {
        let began = Instant::now();
        let mut pause = SHORTEST_PAUSE;
        let mut server_errors = 0;
        loop {
            let sent = tokio::select! {
                biased;
                () = context.cancel.cancelled() => return Err(stopped()),
                sent = send(request()) => sent,
            };
            let words = match sent {
                Ok(body) => return Ok(Ok(body)),
                Err(Trouble::Refused(StatusCode::INTERNAL_SERVER_ERROR, words))
                    if server_errors < MOST_SERVER_ERRORS =>
                {
                    server_errors += 1;
                    format!("it answers 500: {words}")
                }
                Err(Trouble::Refused(status, words)) => return Ok(Err((status, words))),
                Err(Trouble::Away(words)) => words,
            };
            if began.elapsed() >= self.patience {
                return Err(Failure::retryable(format!(
                    "cannot {doing}: HBase at {} has been away for {}: {words}",
                    self.address.called,
                    whole_seconds(began.elapsed())
                ))
                .with_hint("check that the REST gateway and the master run; `patience` says how long to wait"));
            }
            self.repeated.fetch_add(1, Ordering::Relaxed);
            if pause == SHORTEST_PAUSE {
                let waiting = format!(
                    "cannot {doing} yet: {words}; asking again for {}",
                    whole_seconds(self.patience)
                );
                context.log.say(waiting).await;
            }
            tokio::select! {
                biased;
                () = context.cancel.cancelled() => return Err(stopped()),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn refused(&self, doing: &str, status: StatusCode, words: &str) -> Failure {
        let message = format!(
            "cannot {doing}: HBase at {} answers {status}: {words}",
            self.address.called
        );
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::permanent(message)
                .with_hint("check the login of the connection and what it may do"),
            // The table was there a moment ago, or its regions are on their way.
            StatusCode::NOT_FOUND => Failure::retryable(message)
                .with_hint("somebody dropped the table or its column family meanwhile"),
            StatusCode::INTERNAL_SERVER_ERROR => Failure::retryable(message),
            _ => Failure::permanent(message),
        }
    }
}

async fn send(request: RequestBuilder) -> Result<Bytes, Trouble> {
    let away = |error: &reqwest::Error| {
        if error.is_timeout() {
            Trouble::Away("no answer in time".to_owned())
        } else {
            Trouble::Away(innermost(error))
        }
    };
    let answer = request.send().await.map_err(|error| away(&error))?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(|error| away(&error))?;
    if status.is_success() {
        return Ok(body);
    }
    let words = telling_line(&body);
    Err(match status.as_u16() {
        408 | 429 | 502..=504 => Trouble::Away(format!("it answers {}: {words}", status.as_u16())),
        _ => Trouble::Refused(status, words),
    })
}

/// The gateway writes a word such as `Unavailable`, and below it the exception and its stack: the exception says what it is about.
fn telling_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let word = lines.next().unwrap_or("no words");
    let line = lines
        .next()
        .filter(|line| !line.starts_with("at "))
        .unwrap_or(word);
    line.chars().take(300).collect()
}

fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn whole_seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}

fn stopped() -> Failure {
    Failure {
        class: FailureClass::Cancelled,
        ..Failure::permanent("stopped before everything was written")
    }
}

/// What was percent-encoded in an address.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let code = others
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match code {
            Some(code) => {
                bytes.push(code);
                &others[2..]
            }
            None => {
                bytes.push(*first);
                others
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
