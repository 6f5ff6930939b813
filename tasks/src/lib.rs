//! What a task is, and every built-in kind of task.
//!
//! This crate owns the trait [`Kind`], what a running task may touch ([`Context`]), what it may answer
//! ([`Outcome`], [`Failure`]) and the [`Registry`] that names the kinds. It knows nothing of DAGs, runs in
//! Postgres or the web: whatever must outlive a try goes through [`Durable`].
//!
//! Clients that are heavy to build are cargo features: `kafka`, `s3` and `polars`.

mod context;
mod kind;
mod outcome;
mod registry;
mod settings;

pub use context::{Context, CursorMove, CursorPosition, Durable, DurableError, Instance, Log, LogStream};
pub use kind::{Field, FieldType, Kind, Outputs, Presence, Problem};
pub use outcome::{Failure, FailureClass, Outcome};
pub use registry::Registry;
pub use settings::{KafkaSettings, S3Addressing, S3Credentials, S3Settings};
