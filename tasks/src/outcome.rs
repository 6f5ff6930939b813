//! What a try answers: an outcome, or a failure that says whether trying again can help.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a try ended when nothing went wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The task is done. The value is its *output* (Airflow: XCom), a JSON object that downstream templates read
    /// as `outputs.<task>.<name>`.
    Success {
        /// The output; an empty object when the task has nothing to say.
        output: Value,
    },
    /// The task decided that there is nothing to do.
    Skipped {
        /// Why, for the person who looks at the run.
        reason: String,
    },
    /// The task waits for something and gives its worker slot back until then. The same try goes on later.
    Sleep {
        /// How long to sleep at least.
        wake_after: Duration,
        /// Why, for the person who looks at the run.
        reason: String,
        /// What the task wants to find in [`Context::resume`](crate::Context) when it goes on.
        resume: Value,
    },
}

impl Outcome {
    /// Success with an empty output.
    pub fn success() -> Self {
        Self::Success {
            output: Value::Object(serde_json::Map::new()),
        }
    }
}

/// The largest output that is kept, as JSON.
pub const LARGEST_OUTPUT_BYTES: usize = 256 * 1024;

/// The failure of a task whose output is too large.
pub fn output_too_large(bytes: usize) -> Failure {
    Failure::permanent(format!(
        "the output has {bytes} bytes, {LARGEST_OUTPUT_BYTES} are allowed"
    ))
    .with_hint(
        "store large results as a file or an object, and answer its address: `{\"rows\": \"s3://bucket/key\"}`",
    )
}

/// Why a try failed, as far as retrying is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// Something that may be different next time: retried as the task's policy says.
    Retryable,
    /// Trying again cannot help (wrong configuration, data that breaks its contract): never retried.
    Permanent,
    /// The try ran longer than its `timeout`: retried.
    Timeout,
    /// The task's code panicked: retried.
    Panic,
    /// The process was killed by a signal that Pinwheel did not send: retried.
    Killed,
    /// The worker's lease ended before the try did: retried without counting against `retries`.
    Lost,
    /// A person cancelled the run: not retried.
    Cancelled,
}

/// A failed try.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Decides whether the try is repeated.
    pub class: FailureClass,
    /// What went wrong, one sentence, without secrets.
    pub message: String,
    /// The next step for the person who reads it.
    pub hint: Option<String>,
    /// The exit code of the child process, where there was one.
    pub exit_code: Option<i32>,
}

impl Failure {
    /// A failure that the retry policy may repeat.
    pub fn retryable(message: impl Into<String>) -> Self {
        Self {
            class: FailureClass::Retryable,
            message: message.into(),
            hint: None,
            exit_code: None,
        }
    }

    /// A failure that is final whatever the retry policy says.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self {
            class: FailureClass::Permanent,
            message: message.into(),
            hint: None,
            exit_code: None,
        }
    }

    /// Adds the next step for the reader.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
