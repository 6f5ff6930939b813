//! What all sensors have in common: they look, and sleep until they look again. Meanwhile they hold no worker and no slot.
//!
//! The time-out counts from the first look, across sleeps, by the orchestrator's clock. A look that could not be made (nobody
//! answers) is a look that has not seen it yet: an outage costs no try, and the time-out is what ends it.

use std::{pin::pin, time::Duration};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use crate::{
    Context, Failure, FailureClass, Field, FieldType, Outcome, Presence, Problem, duration,
    given::Given,
};

pub(crate) const POKE_INTERVAL: Field = Field {
    name: "poke_interval",
    field_type: FieldType::Duration,
    presence: Presence::Optional { default: "\"1m\"" },
    doc: "How long it sleeps between two looks; one second or more",
};
pub(crate) const TIMEOUT: Field = Field {
    name: "timeout",
    field_type: FieldType::Duration,
    presence: Presence::Optional { default: "\"7d\"" },
    doc: "How long after its first look it gives up; the task fails then and is not retried",
};
pub(crate) const SOFT_FAIL: Field = Field {
    name: "soft_fail",
    field_type: FieldType::Boolean,
    presence: Presence::Optional { default: "false" },
    doc: "Whether it is skipped instead of failed when it gives up",
};

const SHORTEST_POKE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a look may take to end after a cancel.
const LAST_LOOK: Duration = Duration::from_secs(6);
const USUAL_POKE_INTERVAL: Duration = Duration::from_secs(60);
const USUAL_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What a look has shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    /// It is there; the task's output.
    There(Value),
    /// It is not there yet, for the person who looks at the run.
    NotYet(String),
}

/// What can be said about the common keys when a file is read.
pub(crate) fn check(with: &Map<String, Value>) -> Vec<Problem> {
    let poke_interval = with.get("poke_interval").and_then(Value::as_str);
    match poke_interval.map(duration::parse) {
        Some(Ok(interval)) if interval < SHORTEST_POKE_INTERVAL => vec![Problem {
            field: Some("poke_interval".to_owned()),
            message: "`poke_interval` is shorter than a second".to_owned(),
            hint: Some("write `poke_interval = \"1s\"` or more".to_owned()),
        }],
        // A template, or nothing.
        Some(_) | None => Vec::new(),
    }
}

/// Makes one look, and says how the task goes on.
pub(crate) async fn look(
    context: &Context,
    with: &Map<String, Value>,
    look: impl Future<Output = Result<Seen, Failure>>,
) -> Result<Outcome, Failure> {
    let given = Given::new(with);
    let poke_interval = given
        .duration("poke_interval")?
        .unwrap_or(USUAL_POKE_INTERVAL)
        .max(SHORTEST_POKE_INTERVAL);
    let timeout = given.duration("timeout")?.unwrap_or(USUAL_TIMEOUT);
    let is_soft = given.is_set("soft_fail")?;
    let mut looks = Looks::of(context).await?;
    let mut look = pin!(look);
    let seen = tokio::select! {
        biased;
        () = context.cancel.cancelled() => {
            // A look that knows of the cancel tells the other side.
            let _ended = tokio::time::timeout(LAST_LOOK, &mut look).await;
            return Err(Failure {
                class: FailureClass::Cancelled,
                ..Failure::permanent("it was stopped while it looked")
            });
        }
        seen = &mut look => seen,
    };
    let why = match seen {
        Ok(Seen::There(output)) => return Ok(Outcome::Success { output }),
        Ok(Seen::NotYet(why)) => why,
        Err(failure) if failure.class == FailureClass::Retryable => failure.message,
        Err(failure) => return Err(failure),
    };
    looks.made += 1;
    let now = context.orchestrator.now().await?;
    // A clock that was set back waits longer, and never fails.
    let waited = (now - looks.since).to_std().unwrap_or_default();
    let left = timeout.saturating_sub(waited);
    if left.is_zero() {
        let timeout = duration::text(timeout);
        let message = format!("gave up after {timeout} and {}: {why}", looks.text());
        if is_soft {
            return Ok(Outcome::Skipped { reason: message });
        }
        return Err(Failure::permanent(message).with_hint(
            "look for what it waits for; then clear the task, or give it a longer `timeout`",
        ));
    }
    context.log.say(format!("not yet: {why}")).await;
    Ok(Outcome::Sleep {
        wake_after: poke_interval.min(left),
        reason: format!("{why} (after {})", looks.text()),
        resume: looks.resume(),
    })
}

/// The looks that were made, as they are kept across sleeps.
struct Looks {
    since: DateTime<Utc>,
    made: u64,
}

impl Looks {
    async fn of(context: &Context) -> Result<Self, Failure> {
        let kept = context.resume.as_ref().and_then(|kept| {
            let since = DateTime::parse_from_rfc3339(kept.get("since")?.as_str()?).ok()?;
            Some(Self {
                since: since.to_utc(),
                made: kept.get("looks")?.as_u64()?,
            })
        });
        match kept {
            Some(kept) => Ok(kept),
            None => Ok(Self {
                since: context.orchestrator.now().await?,
                made: 0,
            }),
        }
    }

    fn resume(&self) -> Value {
        let since = self.since.to_rfc3339_opts(SecondsFormat::Micros, true);
        json!({ "since": since, "looks": self.made })
    }

    fn text(&self) -> String {
        match self.made {
            1 => "1 look".to_owned(),
            made => format!("{made} looks"),
        }
    }
}

/// How long from one instant to another, not less than nothing.
pub(crate) fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> Duration {
    (to - from).to_std().unwrap_or_default()
}

/// An instant moved by a duration, if the calendar reaches that far.
pub(crate) fn moved(instant: DateTime<Utc>, by: Duration) -> Option<DateTime<Utc>> {
    instant.checked_add_signed(TimeDelta::from_std(by).ok()?)
}

/// The same backwards.
pub(crate) fn moved_back(instant: DateTime<Utc>, by: Duration) -> Option<DateTime<Utc>> {
    instant.checked_sub_signed(TimeDelta::from_std(by).ok()?)
}

/// An instant as outputs and messages write it.
pub(crate) fn written(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
