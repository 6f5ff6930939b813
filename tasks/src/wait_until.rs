//! `wait_until`: sleeps until an instant. It knows when that is, so it looks once and sleeps once.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem,
    given::Given,
    sensor::{between, moved, written},
};

/// The kind `wait_until`.
#[derive(Debug, Clone, Copy, Default)]
pub struct WaitUntil;

#[async_trait]
impl Kind for WaitUntil {
    fn name(&self) -> &'static str {
        "wait_until"
    }

    fn summary(&self) -> &'static str {
        "Waits for an instant, or for a time after the data interval's end, without holding a worker"
    }

    fn fields(&self) -> &'static [Field] {
        &[
            Field {
                name: "instant",
                field_type: FieldType::Text,
                presence: Presence::Optional {
                    default: "either this or `after_interval`",
                },
                doc: "The instant, such as `2026-01-31T02:00:00Z`; may be a template",
            },
            Field {
                name: "after_interval",
                field_type: FieldType::Duration,
                presence: Presence::Optional {
                    default: "either this or `instant`",
                },
                doc: "How long after the end of the run's data interval",
            },
        ]
    }

    fn outputs(&self) -> Outputs {
        Outputs::Known(&[("until", "The instant it waited for, as RFC 3339 text")])
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let problem = |field: Option<&str>, message: &str, hint: &str| Problem {
            field: field.map(str::to_owned),
            message: message.to_owned(),
            hint: Some(hint.to_owned()),
        };
        match (with.get("instant"), with.contains_key("after_interval")) {
            (None, false) => vec![problem(
                None,
                "neither `instant` nor `after_interval` is given",
                "write `after_interval = \"15m\"`, or `instant = \"2026-01-31T02:00:00Z\"`",
            )],
            (Some(_), true) => vec![problem(
                Some("instant"),
                "both `instant` and `after_interval` are given",
                "remove one of them",
            )],
            (Some(Value::String(text)), false)
                if !text.contains("{{") && Given::new(with).instant("instant").is_err() =>
            {
                vec![problem(
                    Some("instant"),
                    "`instant` is no instant",
                    "write it as `2026-01-31T02:00:00Z`",
                )]
            }
            (Some(_), false) | (None, true) => Vec::new(),
        }
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        let given = Given::new(&with);
        let until = match (given.instant("instant")?, given.duration("after_interval")?) {
            (Some(instant), None) => instant,
            (None, Some(after)) => moved(context.instance.data_interval_end, after)
                .ok_or_else(|| Failure::permanent("`after_interval` lies beyond the calendar"))?,
            (None, None) | (Some(_), Some(_)) => {
                return Err(Failure::permanent(
                    "exactly one of `instant` and `after_interval` must be given",
                ));
            }
        };
        let now = context.orchestrator.now().await?;
        let text = written(until);
        if now >= until {
            return Ok(Outcome::Success {
                output: json!({ "until": text }),
            });
        }
        context.log.say(format!("waiting until {text}")).await;
        Ok(Outcome::Sleep {
            wake_after: between(now, until),
            reason: format!("waits until {text}"),
            resume: json!({ "until": text }),
        })
    }
}
