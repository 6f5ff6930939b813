//! The kind `report`: SQL over cleaned datasets, written as CSV, JSON, Parquet and a page, kept per run.
//!
//! A report is a SQL file of the DAG folder. This kind reads datasets and writes below its own prefix; it never changes a dataset,
//! and no value of a run becomes part of the SQL text.

mod page;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;
use polars::prelude::*;
use serde_json::{Map, Value, json};

use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem, blocking,
    lake::folder,
    query::{self, Bindings, Formulas},
    s3::{Location, ObjectStore},
};

/// Longer SQL files are refused.
const MOST_SQL_BYTES: u64 = 256 * 1024;

const FIELDS: &[Field] = &[
    Field {
        name: "sql",
        field_type: FieldType::Text,
        presence: Presence::Optional {
            default: "`reports` is given instead",
        },
        doc: "A SQL file, relative to the DAG folder, such as `reports/posts_by_category.sql`; the report gets the file's name.",
    },
    Field {
        name: "title",
        field_type: FieldType::Text,
        presence: Presence::Optional {
            default: "the report's name",
        },
        doc: "The title of the report that `sql` names.",
    },
    Field {
        name: "reports",
        field_type: FieldType::Any,
        presence: Presence::Optional {
            default: "`sql` is given instead",
        },
        doc: "Several reports: a list of tables with `name`, `sql` and optionally `title`.",
    },
    Field {
        name: "datasets",
        field_type: FieldType::TextTable,
        presence: Presence::Required,
        doc: "The tables that SQL may name, each with the `s3://` prefix of its dataset: `{ pins = \"s3://lake/clean/pins/\" }`.",
    },
    Field {
        name: "params",
        field_type: FieldType::Any,
        presence: Presence::Optional { default: "none" },
        doc: "Values for `$name` in the SQL files, as a table. They are bound, never spliced into the text.",
    },
    Field {
        name: "to",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "The `s3://` prefix of all reports; each run writes a folder of its own below it.",
    },
    Field {
        name: "formats",
        field_type: FieldType::TextList,
        presence: Presence::Optional {
            default: "all of them",
        },
        doc: "Which of `csv`, `json`, `parquet` and `html` to write.",
    },
];

const OUTPUTS: Outputs = Outputs::Known(&[
    ("reports", "how many reports were written"),
    ("files", "the addresses of all files"),
]);

/// Writes reports.
pub struct Report {
    store: ObjectStore,
    dag_folder: PathBuf,
}

impl Report {
    /// The kind, for one store; SQL files are found below `dag_folder`.
    pub fn new(store: ObjectStore, dag_folder: impl Into<PathBuf>) -> Self {
        Self {
            store,
            dag_folder: dag_folder.into(),
        }
    }

    async fn read_sql(&self, path: &str) -> Result<String, Failure> {
        check_path(path).map_err(Failure::permanent)?;
        let file = self.dag_folder.join(path);
        let cannot = |why: String| {
            Failure::permanent(format!("the SQL file `{path}` cannot be read: {why}")).with_hint(
                format!(
                    "it is looked for below the DAG folder `{}`",
                    self.dag_folder.display()
                ),
            )
        };
        let size = tokio::fs::metadata(&file)
            .await
            .map_err(|error| cannot(error.to_string()))?
            .len();
        if size > MOST_SQL_BYTES {
            return Err(cannot(format!(
                "it has {size} bytes, at most {MOST_SQL_BYTES} are read"
            )));
        }
        tokio::fs::read_to_string(&file)
            .await
            .map_err(|error| cannot(error.to_string()))
    }

    async fn write(
        &self,
        context: &Context,
        request: &Request,
        report: &Wanted,
    ) -> Result<Vec<String>, Failure> {
        let sql = self.read_sql(&report.sql).await?;
        let rows = query::run_bound(&self.store, &request.datasets, &sql, &request.params)
            .await
            .map_err(|failure| Failure {
                message: format!("report `{}`: {}", report.name, failure.message),
                ..failure
            })?;
        let instance = &context.instance;
        let written = page::Written {
            title: report.title.clone(),
            description: description(&sql),
            sql,
            dag_id: instance.dag_id.clone(),
            run_id: instance.run_id,
            logical_date: instance
                .logical_date
                .format("%Y-%m-%d %H:%M:%S UTC")
                .to_string(),
        };
        let count = rows.height();
        let formats = request.formats.clone();
        let name = report.name.clone();
        let bodies: PolarsResult<Vec<(Format, Vec<u8>)>> = blocking::run(move || {
            formats
                .into_iter()
                .map(|format| Ok((format, body(format, &name, &written, &rows)?)))
                .collect()
        })
        .await?;
        let bodies = bodies.map_err(|error| {
            Failure::permanent(format!(
                "report `{}` cannot be written: {error}",
                report.name
            ))
        })?;
        let run = format!(
            "{}-r{}",
            instance.logical_date.format("%Y%m%dT%H%M%SZ"),
            instance.run_id
        );
        let mut files = Vec::new();
        for (format, body) in bodies {
            let key = format!(
                "{}{}/{run}/{}.{}",
                folder(&request.to.key),
                report.name,
                report.name,
                format.word()
            );
            let at = Location::new(&request.to.bucket, key);
            self.store
                .put(&at, Bytes::from(body), format.content_type())
                .await?;
            files.push(at.to_string());
        }
        context
            .log
            .say(format!(
                "report `{}`: {count} rows, {} files",
                report.name,
                files.len()
            ))
            .await;
        Ok(files)
    }
}

#[async_trait]
impl Kind for Report {
    fn name(&self) -> &'static str {
        "report"
    }

    fn summary(&self) -> &'static str {
        "Runs SQL files over cleaned datasets and writes each answer as CSV, JSON, Parquet and a page."
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn outputs(&self) -> Outputs {
        OUTPUTS
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Err((field, message)) = wanted_reports(with) {
            problems.push(Problem {
                field,
                message,
                hint: None,
            });
        }
        if let Err((field, message)) = wanted_formats(with) {
            problems.push(Problem {
                field,
                message,
                hint: Some("the formats are csv, json, parquet, html".to_owned()),
            });
        }
        let addresses = with
            .get("datasets")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(_, address)| ("datasets", address));
        for (key, address) in addresses.chain(with.get("to").map(|address| ("to", address))) {
            let Some(address) = address.as_str().filter(|text| !text.contains("{{")) else {
                continue;
            };
            if let Err(error) = address.parse::<Location>() {
                problems.push(Problem {
                    field: Some(key.to_owned()),
                    message: error.to_string(),
                    hint: Some(error.hint().to_owned()),
                });
            }
        }
        problems
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        let request = Request::read(&with)?;
        let mut files = Vec::new();
        for report in &request.reports {
            if context.cancel.is_cancelled() {
                return Err(Failure::retryable(
                    "stopped before every report was written",
                ));
            }
            files.extend(self.write(context, &request, report).await?);
        }
        Ok(Outcome::Success {
            output: json!({ "reports": request.reports.len(), "files": files }),
        })
    }
}

/// One report to write.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    name: String,
    title: String,
    sql: String,
}

/// The `with` table, read.
struct Request {
    reports: Vec<Wanted>,
    datasets: BTreeMap<String, Location>,
    params: Bindings,
    to: Location,
    formats: Vec<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Json,
    Parquet,
    Html,
}

impl Format {
    const ALL: [Self; 4] = [Self::Csv, Self::Json, Self::Parquet, Self::Html];

    fn word(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Parquet => "parquet",
            Self::Html => "html",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8",
            Self::Json => "application/json",
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Html => "text/html; charset=utf-8",
        }
    }
}

/// A mistake in the `with` table: the key and the words.
type Mistake = (Option<String>, String);

impl Request {
    fn read(with: &Map<String, Value>) -> Result<Self, Failure> {
        let mistaken = |(_, message): Mistake| Failure::permanent(message);
        let table = with
            .get("datasets")
            .and_then(Value::as_object)
            .ok_or_else(|| Failure::permanent("`datasets` must be a table"))?;
        let mut datasets = BTreeMap::new();
        for (name, address) in table {
            let address = address.as_str().ok_or_else(|| {
                Failure::permanent(format!("the address of dataset `{name}` must be a string"))
            })?;
            datasets.insert(name.clone(), address.parse::<Location>()?);
        }
        let to = with
            .get("to")
            .and_then(Value::as_str)
            .ok_or_else(|| Failure::permanent("`to` must be a string"))?;
        Ok(Self {
            reports: wanted_reports(with).map_err(mistaken)?,
            datasets,
            params: match with.get("params") {
                None => Bindings::new(),
                Some(Value::Object(params)) => params
                    .iter()
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
                Some(_) => return Err(Failure::permanent("`params` must be a table")),
            },
            to: to.parse()?,
            formats: wanted_formats(with).map_err(mistaken)?,
        })
    }
}

fn wanted_reports(with: &Map<String, Value>) -> Result<Vec<Wanted>, Mistake> {
    let reports = match (with.get("sql"), with.get("reports")) {
        (Some(_), None) => {
            let entry: Map<String, Value> = with
                .iter()
                .filter(|(key, _)| matches!(key.as_str(), "sql" | "title"))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            vec![wanted(&entry)?]
        }
        (None, Some(Value::Array(list))) if !list.is_empty() => {
            let entry = |value: &Value| match value {
                Value::Object(entry) => wanted(entry),
                _ => Err((
                    Some("reports".to_owned()),
                    "`reports` must be a list of tables".to_owned(),
                )),
            };
            list.iter().map(entry).collect::<Result<_, _>>()?
        }
        (None, Some(_)) => {
            return Err((
                Some("reports".to_owned()),
                "`reports` must be a list of tables with at least one".to_owned(),
            ));
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err((
                None,
                "exactly one of `sql` and `reports` must be given".to_owned(),
            ));
        }
    };
    let mut names = BTreeSet::new();
    match reports
        .iter()
        .find(|report| !names.insert(report.name.clone()))
    {
        Some(twice) => Err((
            Some("reports".to_owned()),
            format!("two reports are named `{}`", twice.name),
        )),
        None => Ok(reports),
    }
}

fn wanted(entry: &Map<String, Value>) -> Result<Wanted, Mistake> {
    let mistake = |message: String| (Some("reports".to_owned()), message);
    if let Some(key) = entry
        .keys()
        .find(|key| !matches!(key.as_str(), "name" | "title" | "sql"))
    {
        return Err(mistake(format!(
            "unknown key `{key}` in a report; the keys are name, title, sql"
        )));
    }
    let text = |key: &str| match entry.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(mistake(format!("`{key}` of a report must be a string"))),
    };
    let sql = text("sql")?.ok_or_else(|| mistake("a report has no `sql`".to_owned()))?;
    check_path(&sql).map_err(|message| (Some("sql".to_owned()), message))?;
    let stem = Path::new(&sql)
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let name = text("name")?.unwrap_or_else(|| stem.to_owned());
    let well_formed = (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if !well_formed && !name.contains("{{") {
        return Err(mistake(format!(
            "`{}` is no report name: expected letters, digits, `-` and `_`, at most 32",
            name.escape_debug()
        )));
    }
    Ok(Wanted {
        title: text("title")?.unwrap_or_else(|| name.clone()),
        name,
        sql,
    })
}

fn wanted_formats(with: &Map<String, Value>) -> Result<Vec<Format>, Mistake> {
    let Some(given) = with.get("formats") else {
        return Ok(Format::ALL.to_vec());
    };
    let mistake = |found: &Value| {
        (
            Some("formats".to_owned()),
            format!("unknown format {found}"),
        )
    };
    let Some(list) = given.as_array() else {
        return Err((
            Some("formats".to_owned()),
            "`formats` must be a list".to_owned(),
        ));
    };
    if list.is_empty() {
        return Err((Some("formats".to_owned()), "`formats` is empty".to_owned()));
    }
    list.iter()
        .filter(|word| !word.as_str().is_some_and(|word| word.contains("{{")))
        .map(|word| {
            Format::ALL
                .into_iter()
                .find(|format| Some(format.word()) == word.as_str())
                .ok_or_else(|| mistake(word))
        })
        .collect()
}

/// A SQL file is named by a path that cannot leave the DAG folder.
fn check_path(path: &str) -> Result<(), String> {
    let stays_inside = !path.is_empty()
        && !path.contains('\\')
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
    if !stays_inside {
        return Err(format!(
            "`{}` must be a path below the DAG folder, without `..` and not absolute",
            path.escape_debug()
        ));
    }
    if Path::new(path)
        .extension()
        .is_none_or(|extension| extension != "sql")
    {
        return Err(format!("`{}` must name a `.sql` file", path.escape_debug()));
    }
    Ok(())
}

/// The comment at the top of a SQL file says what the report shows.
fn description(sql: &str) -> String {
    let lines = sql
        .lines()
        .map(str::trim)
        .take_while(|line| line.starts_with("--"));
    lines
        .map(|line| line.trim_start_matches('-').trim())
        .collect::<Vec<_>>()
        .join(" ")
}

fn body(
    format: Format,
    name: &str,
    written: &page::Written,
    rows: &DataFrame,
) -> PolarsResult<Vec<u8>> {
    match format {
        Format::Csv => {
            Ok(query::render(rows, query::Format::Csv(Formulas::Disarmed))?.into_bytes())
        }
        Format::Html => Ok(page::html(written, rows)?.into_bytes()),
        Format::Parquet => {
            let mut body = Vec::new();
            ParquetWriter::new(&mut body)
                .with_compression(ParquetCompression::Zstd(None))
                .with_statistics(StatisticsOptions::full())
                .finish(&mut rows.clone())?;
            Ok(body)
        }
        Format::Json => {
            let columns: Vec<Value> = rows
                .columns()
                .iter()
                .map(|column| json!({ "name": column.name().as_str(), "type": column.dtype().to_string() }))
                .collect();
            let report = json!({
                "name": name,
                "title": written.title,
                "description": written.description,
                "sql": written.sql,
                "dag": written.dag_id,
                "run": written.run_id,
                "logical_date": written.logical_date,
                "columns": columns,
                "rows": query::row_objects(rows)?,
            });
            Ok(format!("{report:#}\n").into_bytes())
        }
    }
}

#[cfg(test)]
mod tests;
