//! `wait`: lets a time pass. It sleeps in the orchestrator and holds no worker slot meanwhile.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use crate::{Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, duration};

/// The kind `wait`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wait;

#[async_trait]
impl Kind for Wait {
    fn name(&self) -> &'static str {
        "wait"
    }

    fn summary(&self) -> &'static str {
        "Lets a time pass without holding a worker"
    }

    fn fields(&self) -> &'static [Field] {
        &[Field {
            name: "for",
            field_type: FieldType::Duration,
            presence: Presence::Required,
            doc: "How long, counted from the moment the try starts",
        }]
    }

    fn outputs(&self) -> Outputs {
        Outputs::Known(&[("until", "The instant it waited for, as RFC 3339 text")])
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        // The orchestrator wakes a sleeping try when its own clock has passed the deadline, so being here again is
        // the proof; this machine's clock may differ and is not asked.
        if let Some(until) = context
            .resume
            .as_ref()
            .and_then(|resume| resume.get("until"))
        {
            return Ok(Outcome::Success {
                output: json!({ "until": until }),
            });
        }
        let wait = parse(&with)?;
        let until = deadline(Utc::now(), wait)?.to_rfc3339_opts(SecondsFormat::Millis, true);
        if wait.is_zero() {
            return Ok(Outcome::Success {
                output: json!({ "until": until }),
            });
        }
        let length = duration::text(wait);
        context
            .log
            .say(format!("waiting {length}, until about {until}"))
            .await;
        Ok(Outcome::Sleep {
            wake_after: wait,
            reason: format!("waits {length}"),
            resume: json!({ "until": until }),
        })
    }
}

fn parse(with: &Map<String, Value>) -> Result<Duration, Failure> {
    let Some(text) = with.get("for").and_then(Value::as_str) else {
        return Err(
            Failure::permanent("`for` is not a duration").with_hint("write `for = \"15m\"`")
        );
    };
    duration::parse(text).map_err(|error| Failure::permanent(error.message).with_hint(error.hint))
}

fn deadline(now: DateTime<Utc>, wait: Duration) -> Result<DateTime<Utc>, Failure> {
    TimeDelta::from_std(wait)
        .ok()
        .and_then(|wait| now.checked_add_signed(wait))
        .ok_or_else(|| Failure::permanent("`for` lies beyond the calendar"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::tests::{context, table};

    #[tokio::test]
    async fn a_wait_sleeps_once_and_then_succeeds() {
        let (mut context, _lines) = context(json!({}));
        let with = table(json!({"for": "90s"}));
        let Outcome::Sleep {
            wake_after, resume, ..
        } = Wait.run(&context, with.clone()).await.expect("it sleeps")
        else {
            panic!("it did not sleep");
        };
        assert_eq!(wake_after, Duration::from_secs(90));
        context.resume = Some(resume.clone());
        let outcome = Wait.run(&context, with).await.expect("it is done");
        assert_eq!(outcome, Outcome::Success { output: resume });
    }

    #[tokio::test]
    async fn no_time_at_all_passes_at_once_and_nonsense_is_permanent() {
        let (context, _lines) = context(json!({}));
        let outcome = Wait
            .run(&context, table(json!({"for": "0s"})))
            .await
            .expect("it is done");
        assert!(matches!(outcome, Outcome::Success { .. }));
        let failure = Wait
            .run(&context, table(json!({"for": "soon"})))
            .await
            .expect_err("it is no duration");
        assert_eq!(failure.class, crate::FailureClass::Permanent);
    }
}
