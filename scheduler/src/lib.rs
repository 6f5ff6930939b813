//! When and where tasks run.
//!
//! Three rooms: [`model`] is pure (files, graphs, states, rules, schedules; no I/O and no clock), [`store`] holds every
//! SQL statement of the orchestrator and nothing else, [`engine`] holds the loops. Beside them, [`secrets`] opens and seals
//! connections and variables. This crate never links Kafka, S3 or
//! Polars.

pub mod engine;
pub mod local;
pub mod metrics;
pub mod model;
pub mod secrets;
pub mod store;

#[cfg(test)]
mod testing;
