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

/// Reads one object of a manifest: the columns of [`columns`], in offset order. Decoding happens on a blocking thread.
///
/// # Errors
/// The object is gone, is not the one that was landed, or the store does not answer.
pub async fn object(
    store: &ObjectStore,
    bucket: &str,
    object: &LandedObject,
) -> Result<DataFrame, Failure> {
    let at = Location::new(bucket, &object.key);
    let body = store.get(&at).await?;
    let expected = object.sha256.clone();
    let decoded = tokio::task::spawn_blocking(move || check_and_decode(&body, &expected)).await;
    match decoded {
        Ok(frame) => frame.map_err(|error| Failure::permanent(format!("`{at}` {error}"))),
        Err(died) => match died.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Failure::retryable("the process is shutting down")),
        },
    }
}

fn check_and_decode(body: &Bytes, expected: &str) -> Result<DataFrame, String> {
    let found = sha256(body);
    if found != expected {
        return Err(format!(
            "was changed after it was landed: its SHA-256 is {found}, the manifest says {expected}"
        ));
    }
    columns::decode(body).map_err(|error| format!("is no landed object: {error}"))
}
