//! The real-time path: the ingest API (HTTP → Kafka), the streaming worker (Kafka → Postgres) and the emulator
//! that posts pins.
//!
//! This crate owns the schema `live` of the database and nothing else in it. It never touches the orchestrator's
//! tables, never links Polars or S3, and takes the meaning of *clean* from `pinwheel_tasks::dataset`.

mod backoff;
pub mod emulate;
pub mod ingest;
mod kafka;
pub mod live;
pub mod metrics;
pub mod worker;
