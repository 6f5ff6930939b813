//! `s3_delete`: deletes what a manifest names, once a later task has stored it.
//!
//! This file decides what is proof enough to delete data, and deletes nothing without it. The manifest goes first, so that
//! readers who look for manifests never find one whose objects are gone; a copy of it stays in `_deleted/` and says what
//! there was.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Map, Value, json};

use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem,
    given::Given,
    lake::named::{Named, Of},
    landing::deleted_manifest_key,
    s3::{Location, ObjectStore},
};

/// Requests under way at once.
const AT_ONCE: usize = 16;

const FIELDS: &[Field] = &[
    Field {
        name: "manifest",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "The manifest whose objects are deleted: the `manifest` output of a `kafka_to_s3` or a `clean` task.",
    },
    Field {
        name: "stored",
        field_type: FieldType::Text,
        presence: Presence::Optional {
            default: "either this or `stored_records`",
        },
        doc: "The `manifest` output of the `clean` task that read this landing; its objects must be there and account for every record.",
    },
    Field {
        name: "stored_records",
        field_type: FieldType::Integer,
        presence: Presence::Optional {
            default: "either this or `stored`",
        },
        doc: "How many records a later task says it has stored; the manifest must name exactly as many.",
    },
    Field {
        name: "dry_run",
        field_type: FieldType::Boolean,
        presence: Presence::Optional { default: "false" },
        doc: "`true`: check everything, say what would be deleted, and delete nothing.",
    },
];

const OUTPUTS: Outputs = Outputs::Known(&[
    ("objects", "objects that were deleted, or would be"),
    ("bytes", "their size"),
    (
        "manifest",
        "where the manifest is kept, or would be: in `_deleted/`",
    ),
    ("dry_run", "whether nothing was deleted"),
]);

/// The kind `s3_delete`.
pub struct S3Delete {
    store: ObjectStore,
}

/// What says that the data is stored elsewhere.
enum Proof {
    /// A manifest of a partition that was cleaned from this landing.
    Cleaned(Location),
    /// The count of a later task.
    Records(u64),
}

impl S3Delete {
    /// The kind, for one store.
    pub fn new(store: ObjectStore) -> Self {
        Self { store }
    }

    /// The manifest: at its place, or already moved by an earlier try.
    async fn manifest(&self, at: &Location, kept: &Location) -> Result<(Named, bool), Failure> {
        if let Some(text) = self.store.get_if_exists(at).await? {
            return Ok((Named::parse(&text, at)?, true));
        }
        match self.store.get_if_exists(kept).await? {
            Some(text) => Ok((Named::parse(&text, kept)?, false)),
            None => Err(Failure::permanent(format!("`{at}` does not exist"))
                .with_hint("give the `manifest` output of a `kafka_to_s3` or a `clean` task")),
        }
    }

    async fn prove(&self, at: &Location, named: &Named, proof: &Proof) -> Result<(), Failure> {
        match proof {
            Proof::Records(stored) if *stored == named.records() => Ok(()),
            Proof::Records(stored) => Err(Failure::permanent(format!(
                "`{at}` has {} records, {stored} were stored: nothing is deleted",
                named.records()
            ))
            .with_hint("`stored_records` is the count of the task that stored all of it")),
            Proof::Cleaned(stored_at) => self.prove_cleaned(at, named, stored_at).await,
        }
    }

    async fn prove_cleaned(
        &self,
        at: &Location,
        named: &Named,
        stored_at: &Location,
    ) -> Result<(), Failure> {
        let refuse = |why: String| {
            Err(
                Failure::permanent(format!("{why}: nothing of `{at}` is deleted")).with_hint(
                    "`stored` is the `manifest` output of the `clean` task that read this landing",
                ),
            )
        };
        let stored = Named::read(&self.store, stored_at).await?;
        let Of::Cleaned(partition) = &stored.of else {
            return refuse(format!("`{stored_at}` is no partition of a `clean` task"));
        };
        if partition.landing != at.to_string() {
            return refuse(format!(
                "`{stored_at}` was cleaned from `{}`",
                partition.landing
            ));
        }
        if partition.counts.landed != named.records() || !partition.counts.add_up() {
            return refuse(format!(
                "`{stored_at}` accounts for {} of {} records",
                partition.counts.landed,
                named.records()
            ));
        }
        for object in stored.objects() {
            let object_at = Location::new(&stored_at.bucket, &object.key);
            let found = self.store.look(&object_at).await?;
            if found.is_none_or(|found| found.bytes != object.bytes) {
                return refuse(format!("`{object_at}`, which `{stored_at}` names, is gone"));
            }
        }
        Ok(())
    }

    /// The manifest first, then its objects. Every step may be repeated.
    async fn delete(
        &self,
        at: &Location,
        kept: &Location,
        named: &Named,
        stands: bool,
    ) -> Result<(), Failure> {
        if stands {
            self.store
                .put(kept, Bytes::from(named.text.clone()), "application/json")
                .await?;
            self.store.delete(at).await?;
        }
        stream::iter(named.objects())
            .map(|object| async move {
                self.store
                    .delete(&Location::new(&at.bucket, object.key))
                    .await
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }
}

#[async_trait]
impl Kind for S3Delete {
    fn name(&self) -> &'static str {
        "s3_delete"
    }

    fn summary(&self) -> &'static str {
        "Deletes the objects that a manifest names, once a later task has stored what they hold."
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn outputs(&self) -> Outputs {
        OUTPUTS
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let proofs = ["stored", "stored_records"];
        if proofs
            .iter()
            .filter(|name| with.contains_key(**name))
            .count()
            != 1
        {
            problems.push(Problem {
                field: None,
                message: "expected exactly one of `stored` and `stored_records`".to_owned(),
                hint: Some("data is deleted only when a later task has stored it".to_owned()),
            });
        }
        for name in ["manifest", "stored"] {
            if let Some(text) = with.get(name).and_then(Value::as_str)
                && !text.contains("{{")
                && let Err(error) = text.parse::<Location>()
            {
                problems.push(Problem {
                    field: Some(name.to_owned()),
                    message: error.to_string(),
                    hint: Some(error.hint().to_owned()),
                });
            }
        }
        problems
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        let given = Given::new(&with);
        let at: Location = given.required_text("manifest")?.parse()?;
        let proof = match (given.text("stored")?, given.count("stored_records")?) {
            (Some(stored), None) => Proof::Cleaned(stored.parse()?),
            (None, Some(records)) => Proof::Records(records),
            (Some(_), Some(_)) | (None, None) => {
                return Err(Failure::permanent(
                    "expected exactly one of `stored` and `stored_records`",
                ));
            }
        };
        let dry_run = given.is_set("dry_run")?;
        let Some(kept) = deleted_manifest_key(&at.key) else {
            return Err(Failure::permanent(format!("`{at}` is in no `_manifests/`"))
                .with_hint("give the `manifest` output of a `kafka_to_s3` or a `clean` task"));
        };
        let kept = Location::new(&at.bucket, kept);
        let (named, stands) = self.manifest(&at, &kept).await?;
        self.prove(&at, &named, &proof).await?;
        let objects = named.objects();
        let bytes: u64 = objects.iter().map(|object| object.bytes).sum();
        if !dry_run {
            self.delete(&at, &kept, &named, stands).await?;
        }
        let done = if dry_run { "would delete" } else { "deleted" };
        context
            .log
            .say(format!(
                "{done} {} objects ({bytes} bytes) of `{at}`",
                objects.len()
            ))
            .await;
        Ok(Outcome::Success {
            output: json!({
                "objects": objects.len(),
                "bytes": bytes,
                "manifest": kept.to_string(),
                "dry_run": dry_run,
            }),
        })
    }
}
