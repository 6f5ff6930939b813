//! `s3_copy`: copies an object, a folder, or what a manifest names, inside one store.
//!
//! The store copies; no data passes through the worker. This file never replaces other content unless it is told to, and
//! writes a manifest only after everything that it names.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Map, Value, json};

use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem,
    given::Given,
    lake::named::Named,
    s3::{Listed, Location, ObjectStore},
};

/// Requests under way at once.
const AT_ONCE: usize = 8;

const FIELDS: &[Field] = &[
    Field {
        name: "from",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "`s3://bucket/key` of an object, `s3://bucket/folder/` for all below it, or a manifest: then what it names is copied, and a manifest that names the copies.",
    },
    Field {
        name: "to",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "`s3://bucket/folder/`, or the copy's own key when `from` is one object.",
    },
    Field {
        name: "replace",
        field_type: FieldType::Boolean,
        presence: Presence::Optional { default: "false" },
        doc: "Whether an object of other content is replaced; without it the task fails.",
    },
];

const OUTPUTS: Outputs = Outputs::Known(&[
    ("objects", "objects that are there now"),
    ("bytes", "their size"),
    ("copied", "how many of them were not there before"),
    (
        "manifest",
        "the manifest that names the copies, or null when `from` is no manifest",
    ),
]);

/// The kind `s3_copy`.
pub struct S3Copy {
    store: ObjectStore,
}

/// One object to copy.
struct Step {
    from: Location,
    to: Location,
    replace: bool,
}

impl S3Copy {
    /// The kind, for one store.
    pub fn new(store: ObjectStore) -> Self {
        Self { store }
    }

    /// Copies one object unless the same is there. Answers its size, and whether it was copied.
    async fn copy(&self, step: Step) -> Result<(u64, bool), Failure> {
        let Some(source) = self.store.look(&step.from).await? else {
            return Err(
                Failure::permanent(format!("`{}` does not exist", step.from))
                    .with_hint("it may have been deleted; run the task that writes it again"),
            );
        };
        match self.store.look(&step.to).await? {
            Some(found) if found.is_same_as(&source) => return Ok((source.bytes, false)),
            Some(_) if !step.replace => {
                return Err(Failure::permanent(format!(
                    "`{}` exists with different content",
                    step.to
                ))
                .with_hint("copy to another `to`, or set `replace = true`"));
            }
            Some(_) | None => {}
        }
        self.store.copy(&step.from, &step.to).await?;
        match self.store.look(&step.to).await? {
            Some(Listed { bytes, .. }) if bytes == source.bytes => Ok((bytes, true)),
            _ => Err(Failure::retryable(format!(
                "`{}` is not what `{}` is after it was copied",
                step.to, step.from
            ))),
        }
    }

    async fn copy_all(&self, steps: Vec<Step>) -> Result<(u64, u64, u64), Failure> {
        let copied: Vec<(u64, bool)> = stream::iter(steps)
            .map(|step| self.copy(step))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let bytes = copied.iter().map(|(bytes, _)| bytes).sum();
        let new = copied.iter().filter(|(_, new)| *new).count();
        Ok((copied.len() as u64, bytes, new as u64))
    }

    /// Copies what a manifest names and then a manifest with the new keys.
    async fn copy_named(
        &self,
        from: &Location,
        to: &Location,
        replace: bool,
    ) -> Result<Value, Failure> {
        let named = Named::read(&self.store, from).await?;
        let root = manifest_root(&from.key).unwrap_or_default();
        let moved = |key: &str| {
            let rest = key.strip_prefix(root).unwrap_or(key);
            format!("{}{rest}", to.key)
        };
        let keys: BTreeMap<String, String> = named
            .objects()
            .into_iter()
            .map(|object| (object.key.clone(), moved(&object.key)))
            .collect();
        let steps = keys
            .iter()
            .map(|(old, new)| Step {
                from: Location::new(&from.bucket, old),
                to: Location::new(&to.bucket, new),
                replace,
            })
            .collect();
        let (objects, bytes, copied) = self.copy_all(steps).await?;
        for object in named.objects() {
            let at = Location::new(&to.bucket, moved(&object.key));
            let found = self.store.look(&at).await?;
            if found.is_some_and(|found| {
                found.bytes != object.bytes
                    || found.checksum.is_some_and(|noted| noted != object.sha256)
            }) {
                return Err(Failure::permanent(format!(
                    "`{at}` is not what `{from}` says: its source was changed after it was written"
                )));
            }
        }
        let manifest: Value = serde_json::from_slice(&named.text)
            .map_err(|error| Failure::permanent(format!("`{from}` is no manifest: {error}")))?;
        let mut text =
            serde_json::to_vec_pretty(&renamed(manifest, &keys)).expect("it was read from JSON");
        text.push(b'\n');
        let at = Location::new(&to.bucket, moved(&from.key));
        if replace {
            self.store
                .put(&at, Bytes::from(text), "application/json")
                .await?;
        } else {
            self.store.put_if_absent(&at, Bytes::from(text)).await?;
        }
        Ok(
            json!({ "objects": objects, "bytes": bytes, "copied": copied, "manifest": at.to_string() }),
        )
    }

    async fn copy_plain(
        &self,
        from: &Location,
        to: &Location,
        replace: bool,
    ) -> Result<Value, Failure> {
        let step = |key: &str, to_key: String| Step {
            from: Location::new(&from.bucket, key),
            to: Location::new(&to.bucket, to_key),
            replace,
        };
        let steps: Vec<Step> = if from.key.is_empty() || from.key.ends_with('/') {
            let keys = self.store.list(from).await?;
            keys.iter()
                .map(|key| step(key, format!("{}{}", to.key, &key[from.key.len()..])))
                .collect()
        } else {
            let name = from.key.rsplit('/').next().unwrap_or(&from.key);
            let own = if to.key.is_empty() || to.key.ends_with('/') {
                format!("{}{name}", to.key)
            } else {
                to.key.clone()
            };
            vec![step(&from.key, own)]
        };
        let (objects, bytes, copied) = self.copy_all(steps).await?;
        Ok(json!({ "objects": objects, "bytes": bytes, "copied": copied, "manifest": null }))
    }
}

/// What the keys of a manifest's objects begin with, if the key is a manifest's.
fn manifest_root(key: &str) -> Option<&str> {
    let (folder, name) = key.rsplit_once('/')?;
    let root = folder.strip_suffix("_manifests")?;
    (name.ends_with(".json") && (root.is_empty() || root.ends_with('/'))).then_some(root)
}

/// The manifest with every key replaced.
fn renamed(value: Value, keys: &BTreeMap<String, String>) -> Value {
    match value {
        Value::String(text) => Value::String(keys.get(&text).cloned().unwrap_or(text)),
        Value::Array(items) => items.into_iter().map(|item| renamed(item, keys)).collect(),
        Value::Object(table) => table
            .into_iter()
            .map(|(name, item)| (name, renamed(item, keys)))
            .collect::<Map<_, _>>()
            .into(),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain,
    }
}

/// What is wrong with two addresses, if anything.
fn mismatch(from: &Location, to: &Location) -> Option<&'static str> {
    let is_folder = |at: &Location| at.key.is_empty() || at.key.ends_with('/');
    if is_folder(to) {
        let inside = from.bucket == to.bucket && is_folder(from) && to.key.starts_with(&from.key);
        return inside.then_some("`to` is inside of `from`");
    }
    let many = is_folder(from) || manifest_root(&from.key).is_some();
    many.then_some("`from` may be many objects, so `to` must end with `/`")
}

#[async_trait]
impl Kind for S3Copy {
    fn name(&self) -> &'static str {
        "s3_copy"
    }

    fn summary(&self) -> &'static str {
        "Copies an object, a folder, or what a manifest names, inside the object store."
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn outputs(&self) -> Outputs {
        OUTPUTS
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut plain = Vec::new();
        for name in ["from", "to"] {
            let Some(text) = with.get(name).and_then(Value::as_str) else {
                continue;
            };
            if text.contains("{{") {
                continue;
            }
            match text.parse::<Location>() {
                Ok(at) => plain.push(at),
                Err(error) => problems.push(Problem {
                    field: Some(name.to_owned()),
                    message: error.to_string(),
                    hint: Some(error.hint().to_owned()),
                }),
            }
        }
        if let [from, to] = &plain[..]
            && let Some(message) = mismatch(from, to)
        {
            problems.push(Problem {
                field: Some("to".to_owned()),
                message: message.to_owned(),
                hint: Some("for example `s3://lake/archive/`".to_owned()),
            });
        }
        problems
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        let given = Given::new(&with);
        let from: Location = given.required_text("from")?.parse()?;
        let to: Location = given.required_text("to")?.parse()?;
        let replace = given.is_set("replace")?;
        if let Some(message) = mismatch(&from, &to) {
            return Err(Failure::permanent(message));
        }
        let output = if manifest_root(&from.key).is_some() {
            self.copy_named(&from, &to, replace).await?
        } else {
            self.copy_plain(&from, &to, replace).await?
        };
        context
            .log
            .say(format!(
                "copied {} of {} objects to `{to}`, the others were there",
                output["copied"], output["objects"]
            ))
            .await;
        Ok(Outcome::Success { output })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Location {
        text.parse().expect("an address")
    }

    #[test]
    fn many_objects_go_into_a_folder_and_never_into_themselves() {
        assert_eq!(mismatch(&at("s3://a/x"), &at("s3://b/y")), None);
        assert_eq!(mismatch(&at("s3://a/x/"), &at("s3://b/y/")), None);
        assert_eq!(mismatch(&at("s3://a/x/"), &at("s3://b/x/y/")), None);
        assert!(mismatch(&at("s3://a/x/"), &at("s3://a/x/y/")).is_some());
        assert!(mismatch(&at("s3://a/x/"), &at("s3://b/y")).is_some());
        assert!(mismatch(&at("s3://a/x/_manifests/m.json"), &at("s3://b/y")).is_some());
    }

    #[test]
    fn a_copied_manifest_names_the_copies_and_is_otherwise_the_same() {
        let keys = BTreeMap::from([("raw/a".to_owned(), "copy/a".to_owned())]);
        let manifest = json!({ "topic": "raw", "objects": [{ "key": "raw/a", "records": 3 }] });
        assert_eq!(
            renamed(manifest, &keys),
            json!({ "topic": "raw", "objects": [{ "key": "copy/a", "records": 3 }] })
        );
    }
}
