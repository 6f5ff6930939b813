//! What a manifest of either kind names.

use serde_json::Value;

use super::Partition;
use crate::{
    Failure,
    landing::Manifest,
    s3::{Location, ObjectStore},
};

/// A manifest as it stands, and what it says.
pub(crate) struct Named {
    /// Its text.
    pub(crate) text: Vec<u8>,
    /// What it is a manifest of.
    pub(crate) of: Of,
}

/// What a manifest is of.
pub(crate) enum Of {
    /// A landing of `kafka_to_s3`.
    Landing(Manifest),
    /// A partition of `clean`.
    Cleaned(Partition),
}

/// One object that a manifest names.
pub(crate) struct NamedObject {
    pub(crate) key: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

impl Named {
    /// Reads the text of a manifest that stands at `at`.
    pub(crate) fn parse(text: &[u8], at: &Location) -> Result<Self, Failure> {
        let no_manifest = |error: String| {
            Failure::permanent(format!("`{at}` is no manifest: {error}"))
                .with_hint("give the `manifest` output of a `kafka_to_s3` or a `clean` task")
        };
        let value: Value =
            serde_json::from_slice(text).map_err(|error| no_manifest(error.to_string()))?;
        let of = if value.get("dataset").is_some() {
            Of::Cleaned(Partition::from_json(text).map_err(no_manifest)?)
        } else {
            Of::Landing(Manifest::from_json(text).map_err(no_manifest)?)
        };
        Ok(Self {
            text: text.to_vec(),
            of,
        })
    }

    /// Reads a manifest.
    pub(crate) async fn read(store: &ObjectStore, at: &Location) -> Result<Self, Failure> {
        Self::parse(&store.get(at).await?, at)
    }

    /// Every object, the dead letters too.
    pub(crate) fn objects(&self) -> Vec<NamedObject> {
        match &self.of {
            Of::Landing(manifest) => manifest
                .objects
                .iter()
                .map(|object| NamedObject {
                    key: object.key.clone(),
                    bytes: object.bytes,
                    sha256: object.sha256.clone(),
                })
                .collect(),
            Of::Cleaned(partition) => partition
                .parts
                .iter()
                .chain(&partition.dead_letters)
                .map(|part| NamedObject {
                    key: part.key.clone(),
                    bytes: part.bytes,
                    sha256: part.sha256.clone(),
                })
                .collect(),
        }
    }

    /// The records that were landed, or the rows that were cleaned.
    pub(crate) fn records(&self) -> u64 {
        match &self.of {
            Of::Landing(manifest) => manifest.records,
            Of::Cleaned(partition) => partition.counts.cleaned,
        }
    }
}
