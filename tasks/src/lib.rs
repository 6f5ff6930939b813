//! What a task is, and every built-in kind of task.
//!
//! This crate owns the trait [`Kind`], what a running task may touch ([`Context`]), what it may answer
//! ([`Outcome`], [`Failure`]) and the [`Registry`] that names the kinds. It knows nothing of DAGs, runs in
//! Postgres or the web: whatever must outlive a try goes through [`Durable`].
//!
//! Clients that are heavy to build are cargo features: `kafka`, `s3` and `polars`.

#[cfg(all(feature = "s3", feature = "polars"))]
mod blocking;
#[cfg(all(feature = "s3", feature = "polars"))]
pub mod clean;
pub mod connections;
mod context;
pub mod dataset;
pub mod duration;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(all(feature = "kafka", feature = "s3", feature = "polars"))]
pub mod kafka_to_s3;
mod kind;
#[cfg(all(feature = "s3", feature = "polars"))]
pub mod lake;
pub mod landing;
pub mod masks;
mod noop;
mod outcome;
#[cfg(all(feature = "s3", feature = "polars"))]
pub mod query;
mod registry;
#[cfg(all(feature = "s3", feature = "polars"))]
pub mod report;
#[cfg(feature = "s3")]
pub mod s3;
mod settings;
mod shell;
mod wait;
pub mod warden;

#[cfg(all(feature = "s3", feature = "polars"))]
pub use clean::Clean;
pub use connections::{Connection, ConnectionError, Connections, NoConnections};
pub use context::{
    Context, CursorMove, CursorPosition, Durable, DurableError, Instance, Log, LogStream,
};
#[cfg(all(feature = "kafka", feature = "s3", feature = "polars"))]
pub use kafka_to_s3::KafkaToS3;
pub use kind::{Field, FieldType, Kind, Outputs, Presence, Problem};
pub use masks::Masks;
pub use noop::Noop;
pub use outcome::{Failure, FailureClass, LARGEST_OUTPUT_BYTES, Outcome, output_too_large};
pub use registry::Registry;
#[cfg(all(feature = "s3", feature = "polars"))]
pub use report::Report;
pub use settings::{KafkaSettings, S3Addressing, S3Credentials, S3Settings};
pub use shell::Shell;
pub use wait::Wait;
pub use warden::Warden;

/// The kinds that need no client: `noop`, `shell` and `wait`.
pub fn light_kinds() -> Vec<std::sync::Arc<dyn Kind>> {
    vec![
        std::sync::Arc::new(Noop),
        std::sync::Arc::new(Shell::default()),
        std::sync::Arc::new(Wait),
    ]
}
