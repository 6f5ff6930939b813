//! What tests of several crates share: services of a test's own.

pub mod broker;
pub mod child;
pub mod durable;
pub mod hbase;
pub mod kafka;
pub mod once;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod proxy;
#[cfg(feature = "s3")]
pub mod s3;
pub mod service;
#[cfg(feature = "smtp")]
pub mod smtp;
#[cfg(feature = "tls")]
pub mod tls;
pub mod versity;
