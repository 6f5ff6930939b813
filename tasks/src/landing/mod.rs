//! Landing: which records of a topic a run takes, how they are cut into objects, and what is said about them.
//!
//! The protocol in one breath: a [`Plan`] is frozen before anything is read; each range of it is cut into objects by a
//! pure function of its records ([`Chunker`]); an object's name says its topic, partition, first and last offset, and
//! its bytes are the same on every attempt; a [`Manifest`] goes last and alone decides what exists; then the cursor
//! moves. Nothing in this folder talks to Kafka, and no boundary ever depends on a clock or on how reads were batched.

mod chunk;
#[cfg(feature = "polars")]
pub mod columns;
#[cfg(feature = "polars")]
pub mod encoder;
mod manifest;
mod plan;
#[cfg(all(feature = "s3", feature = "polars"))]
pub mod read;

pub use chunk::{ChunkLimits, Chunker, Cut};
pub use manifest::{
    LandedObject, LandedRange, Manifest, Tail, deleted_manifest_key, manifest_key, manifest_key_of,
    manifest_prefix, new_plan_id, object_key, other_object_key,
};
pub use plan::{Bounds, Plan, PlanError, PlannedRange, WhenDeleted, cursor_name, plan_ranges};
