//! What tests of several crates share: services of a test's own.

pub mod broker;
pub mod durable;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "s3")]
pub mod s3;
