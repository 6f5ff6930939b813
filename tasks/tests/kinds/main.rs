//! The kinds against real parts: an HTTP server, a Postgres, an S3 server, processes. Time is the world's own and moves when a test
//! says so.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cleaned;
mod cleaning;
mod files;
mod hbase;
mod http;
#[path = "../landing/mod.rs"]
mod landing;
mod python;
mod reports;
mod runs;
mod secured;
mod sql;
mod sql_copy;
mod until;
mod world;
