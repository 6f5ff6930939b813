//! The kind `report`: SQL over cleaned datasets, written as CSV, JSON, Parquet and a page, kept per run.
//!
//! A report is a SQL file of the DAG folder. This kind reads datasets and writes below its own prefix; it never changes a dataset,
//! and no value of a run becomes part of the SQL text.

mod answer;
mod archive;
mod chart;
mod page;
mod request;
mod written;

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use polars::prelude::PolarsResult;
use serde_json::{Map, Value, json};

use self::request::{Request, Wanted, check_path, wanted_formats, wanted_reports, wanted_views};
use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem, blocking,
    lake::{Horizon, folder},
    query::{Bindings, Tables},
    s3::{Location, ObjectStore},
};

pub use answer::{Answer, AnswerColumn, grouped, plain};
pub use archive::{Archive, Kept};
pub use chart::Chart;
pub use page::{MOST_ROWS, is_a_name};
pub use request::Format;
pub use written::Written;

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
        name: "charts",
        field_type: FieldType::Any,
        presence: Presence::Optional {
            default: "bars of the first numbers by the first texts",
        },
        doc: "The charts of the report that `sql` names: a list of tables with `type` (`bars` or `lines`), `label`, `value` and optionally `series`.",
    },
    Field {
        name: "reports",
        field_type: FieldType::Any,
        presence: Presence::Optional {
            default: "`sql` is given instead",
        },
        doc: "Several reports: a list of tables with `name`, `sql` and optionally `title` and `charts`.",
    },
    Field {
        name: "views",
        field_type: FieldType::Any,
        presence: Presence::Optional { default: "none" },
        doc: "SQL files that the reports read as tables: a list of tables with `name` and `sql`. A view may read the datasets and the views before it.",
    },
    Field {
        name: "datasets",
        field_type: FieldType::TextTable,
        presence: Presence::Required,
        doc: "The tables that SQL may name, each with the `s3://` prefix of its dataset: `{ pins = \"s3://lake/clean/pins/\" }`. What was landed after the run was due is not seen.",
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
        views: &[(String, String)],
        tables: &mut Tables<'_>,
        wanted: &Wanted,
    ) -> Result<Vec<String>, Failure> {
        let instance = &context.instance;
        let name = &wanted.name;
        let within = |failure: Failure| Failure {
            message: format!("report `{name}`: {}", failure.message),
            ..failure
        };
        let sql = self.read_sql(&wanted.sql).await?;
        let rows = tables
            .answer(&sql, &bindings(&request.params))
            .await
            .map_err(within)?;
        let unreadable =
            |error| Failure::permanent(format!("report `{name}` cannot be written: {error}"));
        let answer = Answer::of(&rows).map_err(unreadable)?;
        for chart in &wanted.charts {
            chart.fits(&answer).map_err(|why| {
                within(Failure::permanent(why)).with_hint("`charts` name columns of the answer")
            })?;
        }
        let written = Written {
            name: name.clone(),
            title: wanted.title.clone(),
            description: description(&sql),
            sql,
            views: views.to_vec(),
            params: request.params.clone(),
            dag_id: instance.dag_id.clone(),
            run_id: instance.run_id,
            logical_date: instance
                .logical_date
                .format("%Y-%m-%d %H:%M:%S UTC")
                .to_string(),
            charts: wanted.charts.clone(),
            answer,
        };
        let count = rows.height();
        let formats = request.formats.clone();
        let bodies: PolarsResult<Vec<(Format, Vec<u8>)>> = blocking::run(move || {
            formats
                .into_iter()
                .map(|format| Ok((format, written.body(format, &rows)?)))
                .collect()
        })
        .await?;
        let run = archive::run_folder(instance.logical_date, instance.run_id);
        let mut files = Vec::new();
        for (format, body) in bodies.map_err(unreadable)? {
            let key = format!(
                "{}{name}/{run}/{name}.{}",
                folder(&request.to.key),
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
                "report `{name}`: {count} rows, {} files",
                files.len()
            ))
            .await;
        Ok(files)
    }
}

fn bindings(params: &Map<String, Value>) -> Bindings {
    params
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
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
        let mistakes = [wanted_reports(with).err(), wanted_views(with).err()];
        for (field, message) in mistakes.into_iter().flatten() {
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
        let horizon = Horizon::of(&context.instance);
        let mut tables = Tables::new(&self.store, &request.datasets, horizon);
        let mut views = Vec::with_capacity(request.views.len());
        for view in &request.views {
            let sql = self.read_sql(&view.sql).await?;
            tables
                .define(&view.name, &sql, &bindings(&request.params))
                .map_err(|failure| Failure {
                    message: format!("view `{}`: {}", view.name, failure.message),
                    ..failure
                })?;
            views.push((view.name.clone(), sql));
        }
        let mut files = Vec::new();
        for report in &request.reports {
            if context.cancel.is_cancelled() {
                return Err(Failure::retryable(
                    "stopped before every report was written",
                ));
            }
            let written = self.write(context, &request, &views, &mut tables, report);
            files.extend(written.await?);
        }
        Ok(Outcome::Success {
            output: json!({ "reports": request.reports.len(), "files": files }),
        })
    }
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

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
