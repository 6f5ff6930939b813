//! Reading what was landed: the manifest first, then the objects that it names.

use bytes::Bytes;
use polars::prelude::DataFrame;

use super::{LandedObject, Manifest, columns};
use crate::{
    Failure,
    s3::{Location, ObjectStore, sha256},
};

/// Reads a manifest.
///
/// # Errors
/// It does not exist, is no manifest, or the store does not answer.
pub async fn manifest(store: &ObjectStore, at: &Location) -> Result<Manifest, Failure> {
    let text = store.get(at).await?;
    parse_manifest(&text, at)
}

/// Reads the text of a manifest that stands at `at`.
///
/// # Errors
/// It is no manifest.
pub fn parse_manifest(text: &[u8], at: &Location) -> Result<Manifest, Failure> {
    Manifest::from_json(text).map_err(|error| {
        Failure::permanent(format!("`{at}` is no landing manifest: {error}"))
            .with_hint("give the `manifest` output of a `kafka_to_s3` task")
    })
}

/// Fetches one object of a manifest; [`messages`] says what is in it.
///
/// # Errors
/// The object is gone, or the store does not answer.
pub async fn body(
    store: &ObjectStore,
    bucket: &str,
    object: &LandedObject,
) -> Result<Bytes, Failure> {
    Ok(store.get(&Location::new(bucket, &object.key)).await?)
}

/// The messages of an object: the columns of [`columns`] without the headers, in offset order. This takes a processor; call it on a blocking
/// thread.
///
/// # Errors
/// The object is not the one that was landed.
pub fn messages(bucket: &str, object: &LandedObject, body: &Bytes) -> Result<DataFrame, Failure> {
    let refused = |what: String| {
        let at = Location::new(bucket, &object.key);
        Failure::permanent(format!("`{at}` {what}"))
    };
    let (found, expected) = (sha256(body), &object.sha256);
    if found != *expected {
        return Err(refused(format!(
            "was changed after it was landed: its SHA-256 is {found}, the manifest says {expected}"
        )));
    }
    columns::decode_messages(body).map_err(|error| refused(format!("is no landed object: {error}")))
}
