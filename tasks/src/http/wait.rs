//! `wait_for_http`: waits for an answer with an expected status and, if asked, a value in its JSON.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::exchange::{self, Exchange, Request};
use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem,
    given::Given,
    sensor::{self, Seen},
};

/// Of an answer, to look for the value in.
const LIMIT: usize = 1024 * 1024;

const FIELDS: &[Field] = &[
    exchange::URL,
    exchange::METHOD,
    exchange::HEADERS,
    exchange::BODY,
    exchange::JSON,
    exchange::EXPECT,
    Field {
        name: "pointer",
        field_type: FieldType::Text,
        presence: Presence::Optional {
            default: "the status alone decides",
        },
        doc: "Where in the JSON of the answer to look, as a JSON pointer such as `/job/state`",
    },
    Field {
        name: "equals",
        field_type: FieldType::Any,
        presence: Presence::Optional {
            default: "anything but null and false",
        },
        doc: "What has to stand there",
    },
    exchange::REQUEST_TIMEOUT,
    sensor::POKE_INTERVAL,
    sensor::TIMEOUT,
    sensor::SOFT_FAIL,
];

/// The kind `wait_for_http`.
#[derive(Debug, Default)]
pub struct WaitForHttp {
    exchange: Exchange,
}

#[async_trait]
impl Kind for WaitForHttp {
    fn name(&self) -> &'static str {
        "wait_for_http"
    }

    fn summary(&self) -> &'static str {
        "Waits for an HTTP answer with an expected status and value, without holding a worker"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn outputs(&self) -> Outputs {
        Outputs::Known(&[
            ("status", "The status it waited for"),
            ("value", "What stands at `pointer`; null without one"),
        ])
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = exchange::check(with);
        problems.extend(sensor::check(with));
        if with.contains_key("equals") && !with.contains_key("pointer") {
            problems.push(Problem {
                field: Some("equals".to_owned()),
                message: "`equals` without `pointer`".to_owned(),
                hint: Some("say where to look: `pointer = \"/state\"`".to_owned()),
            });
        }
        if let Some(Value::String(pointer)) = with.get("pointer")
            && !pointer.contains("{{")
            && check_pointer(pointer).is_err()
        {
            problems.push(Problem {
                field: Some("pointer".to_owned()),
                message: "`pointer` is no JSON pointer".to_owned(),
                hint: Some("it begins with `/`, as in `/job/state`".to_owned()),
            });
        }
        problems
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        sensor::look(context, &with, self.look(context, &with)).await
    }
}

impl WaitForHttp {
    async fn look(&self, context: &Context, with: &Map<String, Value>) -> Result<Seen, Failure> {
        let request = Request::read(with)?;
        let given = Given::new(with);
        let pointer = given.text("pointer")?;
        if let Some(pointer) = &pointer {
            check_pointer(pointer)?;
        }
        let answer = self.exchange.send(context, &request, LIMIT).await?;
        let (called, status) = (request.called(), answer.status);
        if !request.expects(status) {
            // A page that is not there yet is what one waits for; who is not let in waits for ever.
            if matches!(status, 401 | 403) {
                return Err(answer.unexpected(context, &request).await);
            }
            return Ok(Seen::NotYet(format!("`{called}` answered {status}")));
        }
        let Some(pointer) = pointer else {
            return Ok(Seen::There(json!({ "status": status, "value": null })));
        };
        if answer.is_cut {
            return Err(Failure::permanent(format!(
                "the answer of `{called}` has more than {LIMIT} bytes"
            )));
        }
        let body: Value = match serde_json::from_slice(&answer.body) {
            Ok(body) => body,
            Err(_) => return Ok(Seen::NotYet(format!("`{called}` answered no JSON"))),
        };
        let found = body.pointer(&pointer).unwrap_or(&Value::Null);
        let is_there = match given.value("equals") {
            Some(wanted) => is_same(wanted, found),
            None => !matches!(found, Value::Null | Value::Bool(false)),
        };
        if is_there {
            return Ok(Seen::There(json!({ "status": status, "value": found })));
        }
        let shown: String = found.to_string().chars().take(100).collect();
        Ok(Seen::NotYet(format!(
            "`{pointer}` of `{called}` is {shown}"
        )))
    }
}

fn check_pointer(pointer: &str) -> Result<(), Failure> {
    if pointer.is_empty() || pointer.starts_with('/') {
        Ok(())
    } else {
        Err(
            Failure::permanent(format!("`{pointer}` is no JSON pointer"))
                .with_hint("it begins with `/`, as in `/job/state`"),
        )
    }
}

/// Whether two values are the same; 1 and 1.0 are, as numbers.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other
                || one
                    .as_f64()
                    .zip(other.as_f64())
                    .is_some_and(|(a, b)| a == b)
        }
        _ => one == other,
    }
}
