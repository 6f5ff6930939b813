//! The kinds of task that this binary knows. The only place that names them all.

use std::{path::Path, sync::Arc};

use pinwheel_tasks::{
    HbasePut, Http, KafkaSettings, KafkaToS3, Kind, Python, Registry, S3Addressing, S3Copy,
    S3Credentials, S3Delete, S3Settings, Shell, Sql, SqlCopy, WaitForFile, WaitForHttp, WaitForSql,
    Warden,
    clean::Clean,
    dataset::{Catalog, CatalogError},
    light_kinds,
    report::Report,
    s3::ObjectStore,
};

use crate::{
    failure::{Failure, Result},
    settings::Settings,
};

/// The kinds of a worker, which runs them: it needs Kafka and S3. What they start does not outlive the worker.
pub(crate) async fn for_work(settings: &Settings, role: &str, warden: Warden) -> Result<Registry> {
    let kafka = settings.require_kafka(role)?.clone();
    let s3 = settings.require_s3(role)?.clone();
    let shell = Shell::guarded_by(warden);
    registry(kafka, s3, &settings.dags_folder, shell).await
}

/// The kinds of a process that only checks files: they know their fields and outputs, and are never run.
/// `folder` is where the datasets and reports are that files may name.
pub(crate) async fn for_checks(folder: &Path) -> Result<Registry> {
    registry(no_brokers(), no_store(), folder, Shell::default()).await
}

/// The kinds of one run in this process. Without settings for Kafka or S3 a task that needs them fails; it can be mocked.
pub(crate) async fn for_test(settings: &Settings) -> Result<Registry> {
    let kafka = settings.kafka.clone().unwrap_or_else(no_brokers);
    let s3 = settings.s3.clone().unwrap_or_else(no_store);
    registry(kafka, s3, &settings.dags_folder, Shell::default()).await
}

fn no_brokers() -> KafkaSettings {
    KafkaSettings {
        brokers: String::new(),
        properties: Default::default(),
    }
}

fn no_store() -> S3Settings {
    S3Settings {
        endpoint: Some("http://127.0.0.1:9".to_owned()),
        region: "none".to_owned(),
        // Without a key the AWS client would ask the network for one.
        credentials: Some(S3Credentials {
            access_key_id: "none".to_owned(),
            secret_access_key: "none".to_owned(),
        }),
        addressing: S3Addressing::Path,
    }
}

async fn registry(
    kafka: KafkaSettings,
    s3: S3Settings,
    folder: &Path,
    shell: Shell,
) -> Result<Registry> {
    let store = ObjectStore::connect(&s3).await;
    let catalog = Arc::new(datasets(folder)?);
    let own: [Arc<dyn Kind>; 14] = [
        Arc::new(Python::new(shell.clone(), folder)),
        Arc::new(shell),
        Arc::new(Http::default()),
        Arc::new(WaitForHttp::default()),
        Arc::new(Sql::in_folder(folder)),
        Arc::new(WaitForSql),
        Arc::new(WaitForFile::new(store.clone())),
        Arc::new(KafkaToS3::new(kafka, s3)),
        Arc::new(Clean::new(store.clone(), catalog)),
        Arc::new(S3Copy::new(store.clone())),
        Arc::new(S3Delete::new(store.clone())),
        Arc::new(HbasePut::new(store.clone())),
        Arc::new(SqlCopy::new(store.clone())),
        Arc::new(Report::new(store, folder)),
    ];
    Ok(Registry::new(light_kinds().into_iter().chain(own)))
}

/// The dataset files of a DAG folder.
pub(crate) fn datasets(folder: &Path) -> Result<Catalog> {
    Catalog::load(folder.join("datasets"))
        .map_err(|error: CatalogError| Failure::invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write, path::PathBuf};

    use pinwheel_scheduler::model::dag_file::{self, Colour};
    use pinwheel_tasks::{Field, FieldType, Outputs, Presence};

    use super::*;

    fn type_name(field: &Field) -> &'static str {
        match field.field_type {
            FieldType::Text => "text",
            FieldType::Verbatim => "text, never templated",
            FieldType::VerbatimList => "list of texts, never templated",
            FieldType::Integer => "whole number",
            FieldType::Number => "number",
            FieldType::Boolean => "`true`, `false`",
            FieldType::Duration => "duration",
            FieldType::TextList => "list of texts",
            FieldType::TextTable => "table of texts",
            FieldType::Any => "any",
        }
    }

    /// What the guide says of a kind, as the kind says it of itself.
    fn page(kind: &dyn Kind) -> String {
        let mut page = format!(
            "{}.\n\n| key | type | default | meaning |\n|---|---|---|---|\n",
            kind.summary().trim_end_matches('.')
        );
        for field in kind.fields() {
            let default = match field.presence {
                Presence::Required => "required",
                Presence::Optional { default } => default,
            };
            let doc = field.doc.trim_end_matches('.');
            writeln!(
                page,
                "| `{}` | {} | {default} | {doc} |",
                field.name,
                type_name(field)
            )
            .unwrap();
        }
        match kind.outputs() {
            Outputs::Free => page.push_str("\nOutputs: whatever the task writes.\n"),
            Outputs::Known([]) => page.push_str("\nOutputs: none.\n"),
            Outputs::Known(outputs) => {
                page.push_str("\n| output | meaning |\n|---|---|\n");
                for (name, doc) in outputs {
                    writeln!(page, "| `{name}` | {} |", doc.trim_end_matches('.')).unwrap();
                }
            }
        }
        page
    }

    /// With `PINWHEEL_WRITE_DOCS=1` it writes what it would complain about.
    #[tokio::test]
    async fn the_guide_says_of_every_kind_what_the_kind_says_of_itself() {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let file = root.join("docs/KINDS.md");
        let mut guide = std::fs::read_to_string(&file).unwrap();
        for kind in for_checks(&root.join("dags")).await.unwrap().iter() {
            let name = kind.name();
            let (begin, end) = (
                format!("\n## `{name}`\n\n<!-- from the kind itself -->\n"),
                "<!-- to here -->\n",
            );
            let start = guide
                .find(&begin)
                .map(|at| at + begin.len())
                .unwrap_or_else(|| panic!("docs/KINDS.md has no section for `{name}`"));
            let stop = start + guide[start..].find(end).expect("the section's end");
            let page = page(kind.as_ref());
            if guide[start..stop] != page && std::env::var_os("PINWHEEL_WRITE_DOCS").is_some() {
                guide.replace_range(start..stop, &page);
                std::fs::write(&file, &guide).unwrap();
            } else {
                assert_eq!(guide[start..stop], page, "`{name}` in docs/KINDS.md");
            }
        }
    }

    /// Whether a value fits a schema. It knows the words that our schema uses and panics at any other. The crates that know all
    /// of them turn on features that would have Polars built twice.
    fn fits(
        root: &serde_json::Value,
        schema: &serde_json::Value,
        value: &serde_json::Value,
    ) -> std::result::Result<(), String> {
        use serde_json::Value;
        let refuse = |why: &str| Err(format!("{value}: {why} {schema}"));
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let Some(words) = schema.as_object() else {
            return if schema == &Value::Bool(false) {
                refuse("refused by")
            } else {
                Ok(())
            };
        };
        let all = |list: &Value| list.as_array().expect("a list of schemas").clone();
        let matches = |pattern: &Value, text: &str| {
            regex::Regex::new(pattern.as_str().expect("a pattern"))
                .expect("a pattern")
                .is_match(text)
        };
        let size = |value: &Value| value.as_array().map_or(0, Vec::len) as u64;
        for (word, said) in words {
            let holds = match word.as_str() {
                "$schema" | "$defs" | "title" | "description" | "default" | "if" | "then" => true,
                "$ref" => {
                    let place = text(said).expect("a place");
                    let meant = root
                        .pointer(place.trim_start_matches('#'))
                        .expect("it is there");
                    fits(root, meant, value)?;
                    true
                }
                "type" => match said.as_str().expect("a type") {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_i64(),
                    "number" => value.is_number(),
                    "boolean" => value.is_boolean(),
                    other => panic!("a type `{other}`"),
                },
                "enum" => all(said).contains(value),
                "const" => said == value,
                "anyOf" => all(said).iter().any(|one| fits(root, one, value).is_ok()),
                "oneOf" => {
                    let fitting = all(said);
                    let fitting = fitting.iter().filter(|one| fits(root, one, value).is_ok());
                    fitting.count() == 1
                }
                "allOf" => {
                    for one in all(said) {
                        fits(root, &one, value)?;
                    }
                    true
                }
                "not" => fits(root, said, value).is_err(),
                "properties" => {
                    for (key, schema) in said.as_object().expect("schemas") {
                        if let Some(own) = value.get(key) {
                            fits(root, schema, own)?;
                        }
                    }
                    true
                }
                "additionalProperties" => {
                    let known = words.get("properties").and_then(Value::as_object);
                    for (key, own) in value.as_object().into_iter().flatten() {
                        if known.is_none_or(|known| !known.contains_key(key)) {
                            fits(root, said, own).map_err(|why| format!("{key}: {why}"))?;
                        }
                    }
                    true
                }
                "propertyNames" => {
                    for key in value.as_object().into_iter().flat_map(|table| table.keys()) {
                        fits(root, said, &Value::from(key.as_str()))?;
                    }
                    true
                }
                "required" => all(said)
                    .iter()
                    .all(|key| value.get(key.as_str().expect("a key")).is_some()),
                "items" => {
                    for item in value.as_array().into_iter().flatten() {
                        fits(root, said, item)?;
                    }
                    true
                }
                "minItems" => !value.is_array() || size(value) >= said.as_u64().unwrap(),
                "maxItems" => !value.is_array() || size(value) <= said.as_u64().unwrap(),
                "uniqueItems" => value.as_array().is_none_or(|items| {
                    (1..items.len()).all(|end| !items[..end].contains(&items[end]))
                }),
                "minProperties" => value
                    .as_object()
                    .is_none_or(|table| table.len() as u64 >= said.as_u64().unwrap()),
                "minimum" => value
                    .as_f64()
                    .is_none_or(|number| number >= said.as_f64().unwrap()),
                "maximum" => value
                    .as_f64()
                    .is_none_or(|number| number <= said.as_f64().unwrap()),
                "exclusiveMinimum" => value
                    .as_f64()
                    .is_none_or(|number| number > said.as_f64().unwrap()),
                "minLength" => text(value)
                    .is_none_or(|text| text.chars().count() as u64 >= said.as_u64().unwrap()),
                "maxLength" => text(value)
                    .is_none_or(|text| text.chars().count() as u64 <= said.as_u64().unwrap()),
                "pattern" => text(value).is_none_or(|text| matches(said, &text)),
                other => panic!("the schema uses `{other}`"),
            };
            if !holds {
                return refuse(word);
            }
        }
        if let (Some(condition), Some(then)) = (words.get("if"), words.get("then"))
            && fits(root, condition, value).is_ok()
        {
            fits(root, then, value)?;
        }
        Ok(())
    }

    /// As an editor hands a file to a schema: dates are texts.
    fn as_json(value: &toml::Value) -> serde_json::Value {
        match value {
            toml::Value::String(text) => text.as_str().into(),
            toml::Value::Integer(number) => (*number).into(),
            toml::Value::Float(number) => (*number).into(),
            toml::Value::Boolean(truth) => (*truth).into(),
            toml::Value::Datetime(date) => date.to_string().into(),
            toml::Value::Array(items) => items.iter().map(as_json).collect(),
            toml::Value::Table(table) => table
                .iter()
                .map(|(key, value)| (key.clone(), as_json(value)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }

    #[tokio::test]
    async fn every_key_of_the_schema_stands_in_the_guide() {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let registry = for_checks(&root.join("dags")).await.unwrap();
        let guide = std::fs::read_to_string(root.join("docs/DAG_FILE.md")).unwrap();
        let schema = dag_file::schema(&registry);
        let shown: Vec<toml::Table> = guide
            .split("```toml\n")
            .skip(1)
            .map(|block| block.split("```").next().expect("a block ends"))
            .map(|example| example.parse().expect(example))
            .collect();
        let mut missing = Vec::new();
        for (pointer, heading, tables) in [
            ("/properties", "# DAG files", &[""] as &[&str]),
            ("/properties/dag/properties", "## `[dag]`", &["dag"]),
            (
                "/properties/params/additionalProperties/properties",
                "## `[params.NAME]`",
                &["params.*"],
            ),
            // What stands there may stand in a task as well, and is shown in either.
            (
                "/properties/defaults/properties",
                "## `[defaults]` and `[tasks.ID]`",
                &["defaults", "tasks.*"],
            ),
            (
                "/properties/groups/additionalProperties/properties",
                "### Groups",
                &["groups.*"],
            ),
            (
                "/properties/tasks/additionalProperties/properties",
                "## `[defaults]` and `[tasks.ID]`",
                &["tasks.*"],
            ),
            (
                "/properties/deadline/items/properties",
                "## `[[deadline]]` and `[[notify]]`",
                &["deadline.*"],
            ),
            (
                "/properties/notify/items/properties",
                "## `[[deadline]]` and `[[notify]]`",
                &["notify.*"],
            ),
        ] {
            let section = section(&guide, heading);
            let keys = schema.pointer(pointer).and_then(|keys| keys.as_object());
            for key in keys.expect(pointer).keys() {
                let is_told = section.contains(&format!("`{key}`"))
                    || section.contains(&format!("`[{key}"))
                    || section.contains(&format!("`[[{key}"));
                let is_shown = shown
                    .iter()
                    .flat_map(|file| tables.iter().flat_map(|path| tables_at(file, path)))
                    .any(|table| table.contains_key(key));
                for (is_there, place) in [(is_told, "text"), (is_shown, "example")] {
                    if !is_there {
                        missing.push(format!("{pointer}/{key}: {place}"));
                    }
                }
            }
        }
        assert!(missing.is_empty(), "{missing:#?}");
    }

    /// What stands below a heading, up to the next of its level or above; below the title, everything.
    fn section<'g>(guide: &'g str, heading: &str) -> &'g str {
        let start = guide
            .find(&format!("{heading}\n"))
            .unwrap_or_else(|| panic!("docs/DAG_FILE.md has no `{heading}`"));
        let text = &guide[start + heading.len()..];
        let ends: &[&str] = match heading.split(' ').next() {
            Some("##") => &["\n## "],
            Some("###") => &["\n## ", "\n### "],
            _ => &[],
        };
        let end = ends.iter().filter_map(|end| text.find(end)).min();
        &text[..end.unwrap_or(text.len())]
    }

    /// The tables of a file at `NAME`, or all below it at `NAME.*`; the file itself at the empty path.
    fn tables_at<'t>(file: &'t toml::Table, path: &str) -> Vec<&'t toml::Table> {
        let (name, is_below) = match path.strip_suffix(".*") {
            Some(name) => (name, true),
            None => (path, false),
        };
        match (name, file.get(name)) {
            ("", _) => vec![file],
            (_, Some(toml::Value::Table(table))) if is_below => {
                table.values().filter_map(toml::Value::as_table).collect()
            }
            (_, Some(toml::Value::Table(table))) => vec![table],
            (_, Some(toml::Value::Array(items))) => {
                items.iter().filter_map(toml::Value::as_table).collect()
            }
            (_, Some(_) | None) => Vec::new(),
        }
    }

    #[tokio::test]
    async fn every_example_file_and_every_example_of_the_guide_is_good() {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let registry = for_checks(&root.join("dags")).await.unwrap();
        let mut examples = Vec::new();
        for entry in std::fs::read_dir(root.join("dags/examples")).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            examples.push((path.display().to_string(), text));
        }
        for entry in std::fs::read_dir(root.join("docs")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let guide = std::fs::read_to_string(&path).unwrap();
            for block in guide.split("```toml\n").skip(1) {
                let example = block.split("```").next().expect("a block ends");
                // Others show settings, datasets, or a part of a file.
                if example.contains("[dag]") {
                    examples.push((path.display().to_string(), example.to_owned()));
                }
            }
        }
        assert!(examples.len() > 30);
        let schema = dag_file::schema(&registry);
        for (name, text) in examples {
            let file: toml::Table = text.parse().unwrap();
            let file = as_json(&toml::Value::Table(file));
            if let Err(mistake) = fits(&schema, &schema, &file) {
                panic!("{name}: {mistake}");
            }
            if let Err(diagnostics) = dag_file::load(&name, text.as_bytes(), &registry) {
                panic!(
                    "{}",
                    dag_file::render(&diagnostics, &name, &text, Colour::Never)
                );
            }
        }
    }

    #[tokio::test]
    async fn no_statement_is_ever_a_template() {
        let dags = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("dags");
        let registry = for_checks(&dags).await.unwrap();
        for (with, problem) in [
            (
                "statements = [\"select 1\", \"select {{ ds }}\"]",
                "a template in an element of `statements`, which is never templated",
            ),
            (
                "statement = \"select '{{ ds }}'\"",
                "a template in `statement`, which is never templated",
            ),
            (
                "statements = \"{{ params.sql }}\"",
                "`statements` must be a list of texts, found text",
            ),
        ] {
            let text = format!(
                "[dag]\nid = \"a\"\n[tasks.t]\nkind = \"sql\"\n[tasks.t.with]\nurl = \"postgres://h/d\"\n{with}\n"
            );
            let found = dag_file::load("a.toml", text.as_bytes(), &registry).unwrap_err();
            assert_eq!(found[0].message, problem);
        }
    }
}
