//! The kinds against real services, which `make test-real` fetches and starts: no part of `cargo test`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "the other kinds use more of it")]
#[path = "../kinds/cleaned.rs"]
mod cleaned;
mod hbase;
mod secured;
#[allow(dead_code, reason = "the other kinds use more of it")]
#[path = "../kinds/world.rs"]
mod world;
