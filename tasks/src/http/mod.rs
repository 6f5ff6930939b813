//! `http`: sends one request, and its answer becomes the task's output.
//!
//! A try is one request. What may be different next time (no connection, a time-out, 408, 429, 5xx) is retried as the task's policy
//! says; any other status that was not expected is final.

pub(crate) mod exchange;
mod wait;

use async_trait::async_trait;
use exchange::{Exchange, Request};
use serde_json::{Map, Value, json};
pub use wait::WaitForHttp;

use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem, given::Given,
};

/// How much of a body becomes output unless the task says otherwise.
const LIMIT: u64 = 64 * 1024;
/// An output has to fit into 256 KiB, and JSON in it may take more room than it took in the answer.
const LARGEST_LIMIT: u64 = 200 * 1024;
/// Headers of the answer that are kept unless the task names others; by their meaning none of them is a secret.
const KEPT: [&str; 6] = [
    "content-type",
    "etag",
    "last-modified",
    "location",
    "retry-after",
    "x-request-id",
];

const FIELDS: &[Field] = &[
    exchange::URL,
    exchange::METHOD,
    exchange::HEADERS,
    exchange::BODY,
    exchange::JSON,
    exchange::EXPECT,
    exchange::REQUEST_TIMEOUT,
    Field {
        name: "keep_headers",
        field_type: FieldType::TextList,
        presence: Presence::Optional {
            default: "content-type, etag, last-modified, location, retry-after, x-request-id",
        },
        doc: "Which headers of the answer become output",
    },
    Field {
        name: "limit",
        field_type: FieldType::Integer,
        presence: Presence::Optional { default: "65536" },
        doc: "How many bytes of the answer become output, at most 204800; a longer text is cut, longer JSON fails the task",
    },
];

/// The kind `http`.
#[derive(Debug, Default)]
pub struct Http {
    exchange: Exchange,
}

#[async_trait]
impl Kind for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn summary(&self) -> &'static str {
        "Sends an HTTP request; its answer becomes the output"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn outputs(&self) -> Outputs {
        Outputs::Known(&[
            ("status", "The status, such as 200"),
            ("headers", "The kept headers, by their names in lower case"),
            ("json", "The body, when it is JSON; null otherwise"),
            (
                "text",
                "The body as text, when it is not JSON; null otherwise",
            ),
            ("is_cut", "Whether the text was longer than `limit`"),
        ])
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = exchange::check(with);
        if let Some(Value::Number(_)) = with.get("limit")
            && let Err(failure) = limit(Given::new(with))
        {
            problems.push(Problem {
                field: Some("limit".to_owned()),
                message: failure.message,
                hint: failure.hint,
            });
        }
        problems
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        let request = Request::read(&with)?;
        let given = Given::new(&with);
        let limit = limit(given)?;
        let kept = given
            .texts("keep_headers")?
            .unwrap_or_else(|| KEPT.map(str::to_owned).to_vec());
        let answer = self.exchange.send(context, &request, limit).await?;
        let status = answer.status;
        context
            .log
            .say(format!("{} answered {status}", request.called()))
            .await;
        if !request.expects(status) {
            return Err(answer.unexpected(context, &request).await);
        }
        let mut headers = Map::new();
        for name in kept {
            let name = name.trim().to_ascii_lowercase();
            let values: Vec<_> = answer
                .headers
                .get_all(&name)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect();
            if !values.is_empty() {
                headers.insert(name, values.join(", ").into());
            }
        }
        let (json, text) = if answer.is_json() && limit > 0 && !answer.body.is_empty() {
            if answer.is_cut {
                return Err(Failure::permanent(format!(
                    "the JSON of the answer has more than {limit} bytes"
                ))
                .with_hint("ask for less, raise `limit`, or write `limit = 0` to go without it"));
            }
            let json: Value = serde_json::from_slice(&answer.body).map_err(|error| {
                Failure::retryable(format!(
                    "the answer says that it is JSON and is not: {error}"
                ))
            })?;
            (json, Value::Null)
        } else {
            (Value::Null, answer.text().into())
        };
        Ok(Outcome::Success {
            output: json!({
                "status": status, "headers": headers, "json": json, "text": text, "is_cut": answer.is_cut,
            }),
        })
    }
}

fn limit(given: Given<'_>) -> Result<usize, Failure> {
    let limit = given.count("limit")?.unwrap_or(LIMIT);
    if limit > LARGEST_LIMIT {
        return Err(Failure::permanent(format!(
            "`limit` is {limit}, at most {LARGEST_LIMIT} bytes become output"
        ))
        .with_hint("a `shell` or `python` task can write a large answer to a file or an object"));
    }
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}
