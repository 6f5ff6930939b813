//! How people see and steer Pinwheel: server-rendered pages, live by server-sent events, and a REST API.
//!
//! This crate asks [`Store`](pinwheel_scheduler::store::Store) and shows what it answers. It never speaks SQL, never
//! decides what a state means, and its templates hold no logic: every page is a struct of plain text made here.

mod api;
mod assets;
mod failure;
mod format;
mod graph;
mod guard;
mod health;
mod live;
mod metrics;
mod pages;
mod reports;
mod routes;
mod server;
mod state;
mod streams;

pub use format::{connection_place, plain};
pub use health::Check;
pub use reports::{KeptReport, ReportColumn, ReportFile, ReportShown, Reports};
pub use routes::{Route, routes};
pub use server::{Error, MetricsOptions, WebOptions, metrics_router, router, serve, serve_metrics};
pub use state::{Gather, TestConnection, WebState};
pub use streams::{
    Stream, StreamDeadLetter, StreamPartition, StreamTop, StreamWindow, StreamWorker, Streams,
};
