//! One request and its answer: what the kind `http` and the sensor `wait_for_http` have in common. Nothing here shows the query
//! or the user of a URL, which may hold a token.

use std::{str::FromStr, time::Duration};

use reqwest::{
    Client, Method, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use crate::{Context, Failure, FailureClass, Field, FieldType, Presence, Problem, given::Given};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Of the body of an answer that was not expected, for the log.
const SHOWN_CHARACTERS: usize = 500;

pub(crate) const URL: Field = Field {
    name: "url",
    field_type: FieldType::Text,
    presence: Presence::Required,
    doc: "The address, `http://` or `https://`",
};
pub(crate) const METHOD: Field = Field {
    name: "method",
    field_type: FieldType::Text,
    presence: Presence::Optional { default: "\"GET\"" },
    doc: "The method, such as `POST`",
};
pub(crate) const HEADERS: Field = Field {
    name: "headers",
    field_type: FieldType::TextTable,
    presence: Presence::Optional { default: "{}" },
    doc: "Headers of the request",
};
pub(crate) const BODY: Field = Field {
    name: "body",
    field_type: FieldType::Text,
    presence: Presence::Optional { default: "none" },
    doc: "The body as text",
};
pub(crate) const JSON: Field = Field {
    name: "json",
    field_type: FieldType::Any,
    presence: Presence::Optional { default: "none" },
    doc: "The body as a value that is sent as JSON, instead of `body`",
};
pub(crate) const EXPECT: Field = Field {
    name: "expect",
    field_type: FieldType::Any,
    presence: Presence::Optional { default: "\"2xx\"" },
    doc: "The statuses that are a success: a number, a class such as `\"2xx\"`, or a list of them",
};
pub(crate) const REQUEST_TIMEOUT: Field = Field {
    name: "request_timeout",
    field_type: FieldType::Duration,
    presence: Presence::Optional { default: "\"30s\"" },
    doc: "The longest one request may take, its answer included",
};

/// The client that all tries of a kind share. It is made by the first: reading the certificates of the machine takes a while.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    client: OnceCell<Client>,
}

/// A request, read and checked.
#[derive(Debug)]
pub(crate) struct Request {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
    timeout: Duration,
    expect: Vec<Statuses>,
}

/// Statuses that are a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Statuses {
    first: u16,
    last: u16,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Whether there was more than was wanted.
    pub(crate) is_cut: bool,
}

/// What can be said about a request when its file is read.
pub(crate) fn check(with: &Map<String, Value>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if with.contains_key("body") && with.contains_key("json") {
        problems.push(Problem {
            field: Some("json".to_owned()),
            message: "both `body` and `json` are given".to_owned(),
            hint: Some("remove one of them".to_owned()),
        });
    }
    let mut refuse = |field: &str, failure: Failure| {
        problems.push(Problem {
            field: Some(field.to_owned()),
            message: failure.message,
            hint: failure.hint,
        });
    };
    let is_written = |field: &str| {
        with.get(field)
            .map(Value::to_string)
            .is_some_and(|text| !text.contains("{{") && !text.contains("{%"))
    };
    if is_written("url")
        && let Err(failure) = url(Given::new(with))
    {
        refuse("url", failure);
    }
    if is_written("method")
        && let Err(failure) = method(Given::new(with))
    {
        refuse("method", failure);
    }
    if is_written("expect")
        && let Err(failure) = expect(with.get("expect"))
    {
        refuse("expect", failure);
    }
    problems
}

impl Request {
    pub(crate) fn read(with: &Map<String, Value>) -> Result<Self, Failure> {
        let given = Given::new(with);
        let mut headers = HeaderMap::new();
        for (name, value) in given.text_table("headers")? {
            let name = HeaderName::from_str(&name).map_err(|_| {
                Failure::permanent(format!("`{}` is no name of a header", name.escape_debug()))
            })?;
            let mut value = HeaderValue::from_str(&value).map_err(|_| {
                Failure::permanent(format!(
                    "the value of the header `{name}` has a line break or another character that no header may have"
                ))
            })?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        let body = match (given.text("body")?, given.value("json")) {
            (Some(_), Some(_)) => {
                return Err(Failure::permanent("both `body` and `json` are given"));
            }
            (Some(body), None) => Some(body.into_bytes()),
            (None, Some(json)) => {
                headers
                    .entry(CONTENT_TYPE)
                    .or_insert(HeaderValue::from_static("application/json"));
                Some(json.to_string().into_bytes())
            }
            (None, None) => None,
        };
        Ok(Self {
            method: method(given)?,
            url: url(given)?,
            headers,
            body,
            timeout: given.duration("request_timeout")?.unwrap_or(TIMEOUT),
            expect: expect(given.value("expect"))?,
        })
    }

    /// What messages call it.
    pub(crate) fn called(&self) -> String {
        let Self { method, url, .. } = self;
        let port = url
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        format!(
            "{method} {}://{}{port}{}",
            url.scheme(),
            url.host_str().unwrap_or_default(),
            url.path()
        )
    }

    pub(crate) fn expects(&self, status: u16) -> bool {
        self.expect
            .iter()
            .any(|statuses| (statuses.first..=statuses.last).contains(&status))
    }
}

impl Exchange {
    /// Sends a request and reads at most `limit` bytes of the answer, whatever its status is.
    pub(crate) async fn send(
        &self,
        context: &Context,
        request: &Request,
        limit: usize,
    ) -> Result<Answer, Failure> {
        tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(stopped(request)),
            answer = self.send_to_the_end(request, limit) => answer,
        }
    }

    async fn send_to_the_end(&self, request: &Request, limit: usize) -> Result<Answer, Failure> {
        let explain = |error: reqwest::Error| explain(request, error);
        let client = self.client.get_or_try_init(client).await?;
        let mut sending = client
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone())
            .timeout(request.timeout);
        if let Some(body) = &request.body {
            sending = sending.body(body.clone());
        }
        let mut response = sending.send().await.map_err(explain)?;
        let mut answer = Answer {
            status: response.status().as_u16(),
            headers: std::mem::take(response.headers_mut()),
            body: Vec::new(),
            is_cut: false,
        };
        while let Some(chunk) = response.chunk().await.map_err(explain)? {
            let room = limit - answer.body.len();
            answer
                .body
                .extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                answer.is_cut = true;
                break;
            }
        }
        Ok(answer)
    }
}

impl Answer {
    pub(crate) fn is_json(&self) -> bool {
        self.headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(|value| value.split(';').next().unwrap_or_default().trim())
            .is_some_and(|kind| kind == "application/json" || kind.ends_with("+json"))
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.body).into_owned();
        if self.is_cut {
            // Half a character at the cut is no character.
            text.truncate(text.trim_end_matches('\u{fffd}').len());
        }
        text
    }

    /// The failure of an answer whose status was not expected.
    pub(crate) async fn unexpected(&self, context: &Context, request: &Request) -> Failure {
        let shown: String = self.text().chars().take(SHOWN_CHARACTERS).collect();
        if !shown.trim().is_empty() {
            context
                .log
                .say(format!("the answer begins with: {shown}"))
                .await;
        }
        let status = self.status;
        let message = format!("`{}` answered {status}", request.called());
        match status {
            408 | 429 | 500..=599 => Failure::retryable(message),
            401 | 403 => Failure::permanent(message)
                .with_hint("check what the task sends in `headers` to say who it is"),
            _ => Failure::permanent(message).with_hint(format!(
                "check `url` and `method`; if this is a success, write `expect = [{status}]`"
            )),
        }
    }
}

async fn client() -> Result<Client, Failure> {
    // It reads the certificates that the machine trusts.
    tokio::task::spawn_blocking(|| {
        Client::builder()
            .user_agent(concat!("pinwheel/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .build()
    })
    .await
    .map_err(|error| Failure::retryable(format!("the HTTP client cannot be made: {error}")))?
    .map_err(|error| Failure::retryable(format!("the HTTP client cannot be made: {error}")))
}

fn stopped(request: &Request) -> Failure {
    Failure {
        class: FailureClass::Cancelled,
        ..Failure::permanent(format!("`{}` was stopped", request.called()))
    }
}

fn explain(request: &Request, error: reqwest::Error) -> Failure {
    let called = request.called();
    if error.is_timeout() {
        let timeout = crate::duration::text(request.timeout);
        return Failure::retryable(format!("`{called}` had no whole answer")).with_hint(format!(
            "connecting may take 10s, all of it {timeout} (`request_timeout`)"
        ));
    }
    // The client's own words on top repeat the URL; the cause at the bottom says what happened.
    let is_certain = error.is_builder() || error.is_redirect();
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let message = format!("`{called}` failed: {cause}");
    if is_certain {
        Failure::permanent(message)
    } else {
        Failure::retryable(message)
    }
}

fn method(given: Given<'_>) -> Result<Method, Failure> {
    let Some(text) = given.text("method")? else {
        return Ok(Method::GET);
    };
    Method::from_str(&text.trim().to_ascii_uppercase()).map_err(|_| {
        Failure::permanent(format!("`{}` is no method", text.escape_debug()))
            .with_hint("write `GET`, `POST`, `PUT`, `PATCH`, `DELETE` or `HEAD`")
    })
}

fn url(given: Given<'_>) -> Result<Url, Failure> {
    let text = given.required_text("url")?;
    let hint = "write it as `https://host/path`";
    let url = Url::parse(text.trim()).map_err(|error| {
        Failure::permanent(format!("`url` is no address: {error}")).with_hint(hint)
    })?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(Failure::permanent(format!(
            "`url` must begin with `http://` or `https://`, found `{}:`",
            url.scheme()
        ))
        .with_hint(hint));
    }
    Ok(url)
}

fn expect(value: Option<&Value>) -> Result<Vec<Statuses>, Failure> {
    let Some(value) = value else {
        return Ok(vec![Statuses {
            first: 200,
            last: 299,
        }]);
    };
    let one = |value: &Value| {
        let text = crate::given::plain(value).unwrap_or_default();
        let text = text.trim();
        let statuses = match text.strip_suffix("xx") {
            Some(class) => class.parse::<u16>().ok().map(|class| Statuses {
                first: class.saturating_mul(100),
                last: class.saturating_mul(100).saturating_add(99),
            }),
            None => text.parse().ok().map(|status| Statuses {
                first: status,
                last: status,
            }),
        };
        statuses
            .filter(|statuses| (100..=599).contains(&statuses.first))
            .ok_or_else(|| {
                Failure::permanent(format!("`expect` has {value}, which is no status"))
                    .with_hint("write numbers such as 204 or classes such as \"2xx\"")
            })
    };
    match value {
        Value::Array(all) => all.iter().map(one).collect(),
        single => one(single).map(|statuses| vec![statuses]),
    }
}
