//! `sql`: statements for a Postgres database, in one transaction. Values are bound as parameters and never become part of the
//! text; the text itself is never a template.

#[cfg(all(feature = "s3", feature = "polars"))]
mod copy;
mod session;
mod text;
mod wait;

use std::path::PathBuf;

use async_trait::async_trait;
#[cfg(all(feature = "s3", feature = "polars"))]
pub use copy::SqlCopy;
use serde_json::{Map, Value, json};
use session::Place;
use text::Statement;
pub use wait::WaitForSql;

use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem,
    dag_folder::{self, DagFolder},
    given::{Given, plain},
};

const LIMIT: u64 = 100;
/// What of a connection's `extra` is for the client.
const PARAMETERS: [&str; 6] = [
    "application_name",
    "options",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
];
const LARGEST_LIMIT: u64 = 10_000;

const URL: Field = Field {
    name: "url",
    field_type: FieldType::Text,
    presence: Presence::Optional {
        default: "this or `connection`",
    },
    doc: "The database, as `postgres://user:password@host:5432/database`; may be a template",
};
const CONNECTION: Field = Field {
    name: "connection",
    field_type: FieldType::Text,
    presence: Presence::Optional {
        default: "this or `url`",
    },
    doc: "The database by the name of a connection of type `postgres`, so that no password stands in the file",
};
const PARAMS: Field = Field {
    name: "params",
    field_type: FieldType::Any,
    presence: Presence::Optional { default: "none" },
    doc: "The values of parameters: a table for `$name`, or a list for `$1`; each may be a template. Postgres decides their types",
};

const FIELDS: &[Field] = &[
    CONNECTION,
    URL,
    Field {
        name: "statement",
        field_type: FieldType::Verbatim,
        presence: Presence::Optional {
            default: "this, `statements` or `file`",
        },
        doc: "SQL: one statement, or several with `;` between them. `$name` and `$1` in it are parameters; it is never templated",
    },
    Field {
        name: "statements",
        field_type: FieldType::VerbatimList,
        presence: Presence::Optional {
            default: "this, `statement` or `file`",
        },
        doc: "The same as a list",
    },
    Field {
        name: "file",
        field_type: FieldType::Text,
        presence: Presence::Optional {
            default: "this, `statement` or `statements`",
        },
        doc: "A file of SQL below the DAG folder",
    },
    PARAMS,
    Field {
        name: "limit",
        field_type: FieldType::Integer,
        presence: Presence::Optional { default: "100" },
        doc: "How many rows of the last statement become output, at most 10000",
    },
];

/// The kind `sql`.
#[derive(Debug, Clone)]
pub struct Sql {
    folder: DagFolder,
}

impl Sql {
    /// One that finds the files it is to run below a DAG folder.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: DagFolder::new(folder),
        }
    }

    async fn statements(&self, given: Given<'_>) -> Result<Vec<Statement>, Failure> {
        let texts = match (
            given.text("statement")?,
            given.texts("statements")?,
            given.text("file")?,
        ) {
            (Some(statement), None, None) => vec![statement],
            (None, Some(statements), None) => statements,
            (None, None, Some(file)) => {
                let path = self.folder.find(&file).await?;
                let text = tokio::fs::read_to_string(&path).await.map_err(|error| {
                    Failure::permanent(format!("the file `{file}` cannot be read: {error}"))
                })?;
                vec![text]
            }
            _ => {
                return Err(Failure::permanent(
                    "exactly one of `statement`, `statements` and `file` must be given",
                ));
            }
        };
        let mut statements = Vec::new();
        for text in texts {
            statements.extend(text::statements(&text)?);
        }
        if statements.is_empty() {
            return Err(Failure::permanent("there is no statement"));
        }
        Ok(statements)
    }
}

/// Which database a task means.
async fn place(context: &Context, given: Given<'_>) -> Result<Place, Failure> {
    let Some(id) = given.text("connection")? else {
        return Place::of_url(&given.required_text("url")?);
    };
    let mut connection = context.connections.get(id.trim()).await?;
    if !matches!(
        connection.connection_type.as_str(),
        "postgres" | "postgresql"
    ) {
        return Err(Failure::permanent(format!(
            "connection `{}` is of type `{}`, not `postgres`",
            id.trim(),
            connection.connection_type
        ))
        .with_hint("name another one, or change its type"));
    }
    // `extra` may hold what is not for Postgres, and the client warns of what it does not know, with its value.
    connection
        .extra
        .retain(|name, _| PARAMETERS.contains(&name.as_str()));
    for value in connection.extra.values_mut() {
        if let Some(text) = plain(value) {
            *value = text.into();
        }
    }
    Place::of_url(&connection.uri())
}

fn problem(field: Option<&str>, message: &str, hint: &str) -> Problem {
    Problem {
        field: field.map(str::to_owned),
        message: message.to_owned(),
        hint: Some(hint.to_owned()),
    }
}

fn check_place(with: &Map<String, Value>) -> Vec<Problem> {
    let mut problems = Vec::new();
    match (with.contains_key("connection"), with.contains_key("url")) {
        (false, false) => problems.push(problem(
            None,
            "neither `connection` nor `url` is given",
            "write `connection = \"warehouse\"`, and `pinwheel connections set warehouse …` once",
        )),
        (true, true) => problems.push(problem(
            Some("url"),
            "both `connection` and `url` are given",
            "remove one of them",
        )),
        (true, false) | (false, true) => {}
    }
    problems
}

fn check_common(with: &Map<String, Value>) -> Vec<Problem> {
    let mut problems = check_place(with);
    if let Some(Value::String(statement)) = with.get("statement") {
        match text::statements(statement) {
            Ok(found) if found.is_empty() => problems.push(problem(
                Some("statement"),
                "`statement` is empty",
                "write a statement such as `select 1`",
            )),
            Ok(_) => {}
            Err(failure) => problems.push(problem(
                Some("statement"),
                &failure.message,
                "close it, or double a quote that is meant as one",
            )),
        }
    }
    // A text may be a template that gives a table.
    if let Some(params) = with.get("params").filter(|params| !params.is_string())
        && let Err(failure) = session::params(Some(params))
    {
        problems.push(Problem {
            field: Some("params".to_owned()),
            message: failure.message,
            hint: failure.hint,
        });
    }
    problems
}

#[async_trait]
impl Kind for Sql {
    fn name(&self) -> &'static str {
        "sql"
    }

    fn summary(&self) -> &'static str {
        "Runs SQL statements in a Postgres database, in one transaction"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn outputs(&self) -> Outputs {
        Outputs::Known(&[
            (
                "rows",
                "The rows of the last statement, as a list of tables",
            ),
            (
                "is_cut",
                "Whether there were more rows than `limit`, or than fit into an output",
            ),
            (
                "affected",
                "How many rows were changed by statements that answer none",
            ),
        ])
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = check_common(with);
        let hint =
            "write `statement = \"…\"`, `statements = [\"…\", \"…\"]` or `file = \"load.sql\"`";
        let given = ["statement", "statements", "file"]
            .into_iter()
            .filter(|field| with.contains_key(*field))
            .collect::<Vec<_>>();
        match given.as_slice() {
            [] => problems.push(problem(
                None,
                "none of `statement`, `statements` and `file` is given",
                hint,
            )),
            [_] => {}
            [_, second, ..] => problems.push(problem(
                Some(second),
                "only one of `statement`, `statements` and `file` may be given",
                hint,
            )),
        }
        if let Some(Value::String(file)) = with.get("file")
            && !file.contains("{{")
            && let Err(message) = dag_folder::check_path(file)
        {
            problems.push(problem(
                Some("file"),
                &message,
                "such as `file = \"sql/load.sql\"`",
            ));
        }
        problems
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        let given = Given::new(&with);
        let place = place(context, given).await?;
        let statements = self.statements(given).await?;
        let params = session::params(given.value("params"))?;
        let limit = given.count("limit")?.unwrap_or(LIMIT);
        if limit > LARGEST_LIMIT {
            return Err(Failure::permanent(format!(
                "`limit` is {limit}, at most {LARGEST_LIMIT} rows become output"
            )));
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let answer = place.run(context, &statements, &params, limit).await?;
        let said = format!(
            "{} answered rows, {} changed",
            answer.rows.len(),
            answer.affected
        );
        context.log.say(said).await;
        Ok(Outcome::Success {
            output: json!({ "rows": answer.rows, "is_cut": answer.is_cut, "affected": answer.affected }),
        })
    }
}
