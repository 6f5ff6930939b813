//! What a task is, and every built-in kind of task.
//!
//! This crate owns the trait [`Kind`], what a running task may touch ([`Context`]), what it may answer
//! ([`Outcome`], [`Failure`]) and the [`Registry`] that names the kinds. It knows nothing of DAGs, runs in
//! Postgres or the web: whatever must outlive a try goes through [`Durable`].
//!
//! Clients that are heavy to build are cargo features: `kafka`, `s3`, `polars`, `http` and `sql`.

#[cfg(all(feature = "s3", feature = "polars"))]
mod blocking;
mod branch;
#[cfg(all(feature = "s3", feature = "polars"))]
pub mod clean;
#[cfg(all(
    feature = "s3",
    feature = "polars",
    any(feature = "http", feature = "sql")
))]
mod cleaned;
pub mod connections;
mod context;
mod dag_folder;
pub mod dataset;
pub mod duration;
mod given;
#[cfg(all(feature = "s3", feature = "polars", feature = "http"))]
mod hbase;
#[cfg(feature = "http")]
mod http;
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
mod orchestrator;
mod outcome;
mod python;
#[cfg(all(feature = "s3", feature = "polars"))]
pub mod query;
mod registry;
#[cfg(all(feature = "s3", feature = "polars"))]
pub mod report;
#[cfg(feature = "s3")]
pub mod s3;
#[cfg(all(feature = "s3", feature = "polars"))]
mod s3_copy;
#[cfg(all(feature = "s3", feature = "polars"))]
mod s3_delete;
mod sensor;
mod settings;
mod shell;
#[cfg(feature = "sql")]
mod sql;
#[cfg(feature = "sql")]
mod tls;
mod trigger_dag;
mod wait;
#[cfg(feature = "s3")]
mod wait_for_file;
mod wait_for_run;
mod wait_until;
pub mod warden;

pub use branch::Branch;
#[cfg(all(feature = "s3", feature = "polars"))]
pub use clean::Clean;
pub use connections::{Connection, ConnectionError, Connections, NoConnections};
pub use context::{
    Context, CursorMove, CursorPosition, Durable, DurableError, Instance, Log, LogStream,
};
#[cfg(all(feature = "s3", feature = "polars", feature = "http"))]
pub use hbase::HbasePut;
#[cfg(feature = "http")]
pub use http::{Http, WaitForHttp};
#[cfg(all(feature = "kafka", feature = "s3", feature = "polars"))]
pub use kafka_to_s3::KafkaToS3;
pub use kind::{Field, FieldType, Kind, Outputs, Presence, Problem};
pub use masks::Masks;
pub use noop::Noop;
pub use orchestrator::{
    Alone, Orchestrator, OrchestratorError, RunSeen, RunState, WantedRun, WhichRun,
};
pub use outcome::{Failure, FailureClass, LARGEST_OUTPUT_BYTES, Outcome, output_too_large};
pub use python::Python;
pub use registry::Registry;
#[cfg(all(feature = "s3", feature = "polars"))]
pub use report::Report;
#[cfg(all(feature = "s3", feature = "polars"))]
pub use s3_copy::S3Copy;
#[cfg(all(feature = "s3", feature = "polars"))]
pub use s3_delete::S3Delete;
pub use settings::{KafkaSettings, S3Addressing, S3Credentials, S3Settings};
pub use shell::Shell;
#[cfg(all(feature = "s3", feature = "polars", feature = "sql"))]
pub use sql::SqlCopy;
#[cfg(feature = "sql")]
pub use sql::{Sql, WaitForSql};
#[cfg(feature = "sql")]
pub use tls::choose_cryptography;
pub use trigger_dag::TriggerDag;
pub use wait::Wait;
#[cfg(feature = "s3")]
pub use wait_for_file::WaitForFile;
pub use wait_for_run::WaitForRun;
pub use wait_until::WaitUntil;
pub use warden::Warden;

/// The guide is an example that is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/TASK_KIND.md")]
pub struct TaskKindGuide;

/// The kinds that need no client.
pub fn light_kinds() -> Vec<std::sync::Arc<dyn Kind>> {
    vec![
        std::sync::Arc::new(Branch),
        std::sync::Arc::new(Noop),
        std::sync::Arc::new(Shell::default()),
        std::sync::Arc::new(TriggerDag),
        std::sync::Arc::new(Wait),
        std::sync::Arc::new(WaitForRun),
        std::sync::Arc::new(WaitUntil),
    ]
}
