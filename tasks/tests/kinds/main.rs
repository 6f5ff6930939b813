//! The kinds against real parts: an HTTP server, a Postgres, an S3 server, processes. Time is the world's own and moves when a test
//! says so.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod files;
mod http;
mod python;
mod runs;
mod sql;
mod until;
mod world;
