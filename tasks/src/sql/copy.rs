//! `sql_copy`: the rows of a cleaned partition into a table of Postgres, by COPY into a temporary table and one upsert, in one
//! transaction: whoever reads the table sees all of the partition or nothing of it.

use std::fmt::Write as _;

use async_trait::async_trait;
use polars::prelude::{Column, DataType, PolarsResult};
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, SqlSafeStr};

use super::{
    CONNECTION, URL, check_place, place, problem,
    session::{self, Place},
};
use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem, blocking,
    cleaned::{self, Cleaned, Slice},
    given::Given,
    lake,
    s3::{Location, ObjectStore},
};

/// Rows go to the server in pieces of about this size.
const PIECE_BYTES: usize = 1024 * 1024;
/// The table of the connection that COPY fills.
const COPIED: &str = "pg_temp.pinwheel_copied";

const FIELDS: &[Field] = &[
    Field {
        name: "from",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "The `s3://` address of a cleaned partition: the `manifest` output of a `clean` task",
    },
    CONNECTION,
    URL,
    Field {
        name: "table",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "The table, as `table` or `schema.table`",
    },
    Field {
        name: "key",
        field_type: FieldType::TextList,
        presence: Presence::Optional {
            default: "the dataset's key",
        },
        doc: "The columns of the table that tell a row from another; a unique index or primary key has exactly them",
    },
    Field {
        name: "columns",
        field_type: FieldType::TextTable,
        presence: Presence::Optional {
            default: "the dataset's columns",
        },
        doc: "The table's columns and the dataset's columns that they come from, such as `{ followers = \"follower_count\" }`",
    },
    Field {
        name: "create",
        field_type: FieldType::Boolean,
        presence: Presence::Optional { default: "false" },
        doc: "Whether a table that is missing is created, with the dataset's types and `key` as its primary key",
    },
];

const OUTPUTS: Outputs = Outputs::Known(&[
    ("table", "the table"),
    ("created", "whether the table was created"),
    ("rows", "rows of the partition"),
    ("inserted", "rows whose key was new"),
    ("updated", "rows that were there and differed"),
    ("unchanged", "rows that were there as they are"),
]);

/// Copies a cleaned partition into Postgres.
pub struct SqlCopy {
    store: ObjectStore,
}

impl SqlCopy {
    /// The kind, for the store that holds the cleaned partitions.
    pub fn new(store: ObjectStore) -> Self {
        Self { store }
    }
}

/// A column of the table.
#[derive(Debug, Clone)]
struct Target {
    name: String,
    /// The dataset's column.
    source: String,
    /// As Postgres writes it.
    type_name: String,
}

/// What a transaction did.
struct Copied {
    created: bool,
    rows: u64,
    inserted: u64,
    updated: u64,
}

/// What is wanted of the transaction.
struct Job<'j> {
    place: &'j Place,
    cleaned: &'j Cleaned,
    table: &'j Name,
    key: &'j [String],
    /// The table's columns, and the dataset's.
    columns: &'j [(String, String)],
    create: bool,
}

/// The name of a table, one part for each `.`.
struct Name(Vec<String>);

impl Name {
    fn read(text: &str) -> Result<Self, Failure> {
        let parts: Vec<String> = text.trim().split('.').map(str::to_owned).collect();
        let is_good = parts.len() <= 2
            && parts
                .iter()
                .all(|part| !part.is_empty() && !part.contains(['\0', '"']));
        if is_good {
            Ok(Self(parts))
        } else {
            Err(
                Failure::permanent(format!("`{}` is no name of a table", text.escape_debug()))
                    .with_hint("write `table` or `schema.table`, without quotes"),
            )
        }
    }

    fn quoted(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(|part| quoted(part)).collect();
        parts.join(".")
    }
}

/// An identifier as SQL writes it, whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn list(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

impl Job<'_> {
    async fn run(&self, connection: &mut PgConnection) -> Result<Copied, Failure> {
        let explain = |error: &sqlx::Error| self.place.explain("", error);
        let mut transaction = connection.begin().await.map_err(|error| explain(&error))?;
        let mut types = self.types(&mut transaction).await?;
        let created = types.is_empty();
        if created {
            self.create(&mut transaction).await?;
            types = self.types(&mut transaction).await?;
        }
        let targets = self.targets(&types)?;
        let names = list(targets.iter().map(|target| quoted(&target.name)));
        let table = self.table.quoted();
        execute(
            &mut transaction,
            format!("create temporary table {} on commit drop as select {names} from {table} with no data",
                COPIED.trim_start_matches("pg_temp.")),
        )
        .await
        .map_err(|error| explain(&error))?;
        let rows = self.copy(&mut transaction, &targets, &names).await?;
        let upsert = self.upsert(&targets, &names);
        let counted = transaction
            .fetch_one(AssertSqlSafe(upsert).into_sql_str())
            .await
            .map_err(|error| {
                match error.as_database_error().and_then(|refused| refused.code()) {
                    Some(code) if code == "21000" => Failure::permanent(format!(
                        "the partition has two rows with the same {}",
                        self.key.join(", ")
                    ))
                    .with_hint("`key` must be as fine as the dataset's key"),
                    _ => explain(&error),
                }
            })?;
        let count = |name: &str| {
            let number: i64 = counted.try_get(name).map_err(|error| explain(&error))?;
            Ok::<_, Failure>(u64::try_from(number).unwrap_or_default())
        };
        let (inserted, updated) = (count("inserted")?, count("updated")?);
        transaction
            .commit()
            .await
            .map_err(|error| explain(&error))?;
        Ok(Copied {
            created,
            rows,
            inserted,
            updated,
        })
    }

    /// The columns of the table and their types; none when there is no table.
    async fn types(&self, connection: &mut PgConnection) -> Result<Vec<(String, String)>, Failure> {
        let rows = sqlx::query(
            "select attname::text, format_type(atttypid, -1) from pg_attribute
             where attrelid = to_regclass($1) and attnum > 0 and not attisdropped",
        )
        .bind(self.table.quoted())
        .fetch_all(connection)
        .await
        .map_err(|error| self.place.explain("", &error))?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|error| self.place.explain("", &error))
    }

    async fn create(&self, connection: &mut PgConnection) -> Result<(), Failure> {
        let table = self.table.quoted();
        if !self.create {
            return Err(Failure::permanent(format!("there is no table {table}"))
                .with_hint("create it, or write `create = true`"));
        }
        let mut columns = Vec::new();
        for (name, source) in self.columns {
            let stored = self
                .cleaned
                .partition
                .columns
                .iter()
                .find(|column| column.name == *source);
            let type_name = match stored.map(|column| lake::data_type(column.column_type)) {
                Some(DataType::Boolean) => "boolean",
                Some(DataType::Int64) => "bigint",
                Some(DataType::Float64) => "double precision",
                Some(DataType::Date) => "date",
                Some(DataType::Datetime(..)) => "timestamptz",
                Some(DataType::List(_)) => "text[]",
                Some(_) | None => "text",
            };
            columns.push(format!("{} {type_name}", quoted(name)));
        }
        let key = list(self.key.iter().map(|name| quoted(name)));
        let columns = columns.join(", ");
        execute(
            connection,
            format!("create table if not exists {table} ({columns}, primary key ({key}))"),
        )
        .await
        .map_err(|error| self.place.explain("", &error))
    }

    fn targets(&self, types: &[(String, String)]) -> Result<Vec<Target>, Failure> {
        let known = list(types.iter().map(|(name, _)| name.clone()));
        let table = self.table.quoted();
        let mut targets = Vec::new();
        for (name, source) in self.columns {
            let Some((_, type_name)) = types.iter().find(|(known, _)| known == name) else {
                return Err(
                    Failure::permanent(format!("table {table} has no column `{name}`")).with_hint(
                        format!(
                            "its columns are {known}; `columns` says which of them are written"
                        ),
                    ),
                );
            };
            targets.push(Target {
                name: name.clone(),
                source: source.clone(),
                type_name: type_name.clone(),
            });
        }
        Ok(targets)
    }

    /// Sends every row; the server reads each value as the type that the table's column has.
    async fn copy(
        &self,
        connection: &mut PgConnection,
        targets: &[Target],
        names: &str,
    ) -> Result<u64, Failure> {
        let explain = |error: &sqlx::Error| self.place.explain("", error);
        let statement = format!("copy {COPIED} ({names}) from stdin");
        let mut copying = connection
            .copy_in_raw(&statement)
            .await
            .map_err(|error| explain(&error))?;
        let sources: Vec<String> = {
            let mut sources: Vec<String> =
                targets.iter().map(|target| target.source.clone()).collect();
            sources.sort_unstable();
            sources.dedup();
            sources
        };
        for part in &self.cleaned.partition.parts {
            let mut reader = self.cleaned.part(part, &sources).await?;
            while let Some(slice) = reader.next().await? {
                let (targets, address) = (targets.to_vec(), slice.part.clone());
                let pieces = blocking::run(move || encode(&slice, &targets)).await?;
                let pieces = pieces.map_err(|error| {
                    Failure::permanent(format!("`{address}` cannot be written as text: {error}"))
                })?;
                for piece in pieces {
                    copying.send(piece).await.map_err(|error| explain(&error))?;
                }
            }
        }
        copying.finish().await.map_err(|error| explain(&error))
    }

    /// One statement for all rows. They are locked in the order of their keys, so that two tasks that write the same rows wait for
    /// each other and never in a circle.
    fn upsert(&self, targets: &[Target], names: &str) -> String {
        let table = self.table.quoted();
        let key = list(self.key.iter().map(|name| quoted(name)));
        let others: Vec<&Target> = targets
            .iter()
            .filter(|target| !self.key.contains(&target.name))
            .collect();
        let action = if others.is_empty() {
            "do nothing".to_owned()
        } else {
            let set = list(others.iter().map(|target| {
                let name = quoted(&target.name);
                format!("{name} = excluded.{name}")
            }));
            let side = |side: &str| {
                list(others.iter().map(|target| {
                    // Neither type has an equality of its own.
                    let cast = match target.type_name.as_str() {
                        "json" | "xml" => "::text",
                        _ => "",
                    };
                    format!("{side}.{}{cast}", quoted(&target.name))
                }))
            };
            format!(
                "do update set {set} where row({}) is distinct from row({})",
                side("stored"),
                side("excluded")
            )
        };
        format!(
            "with written as (
                insert into {table} as stored ({names}) select {names} from {COPIED} order by {key}
                on conflict ({key}) {action}
                returning xmax = 0 as is_new
            )
            select count(*) filter (where is_new) as inserted, count(*) filter (where not is_new) as updated from written"
        )
    }
}

async fn execute(connection: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    connection
        .execute(AssertSqlSafe(statement).into_sql_str())
        .await
        .map(drop)
}

/// Rows as COPY reads them: tabs between values, `\N` for null.
fn encode(slice: &Slice, targets: &[Target]) -> PolarsResult<Vec<Vec<u8>>> {
    let columns: Vec<(&Target, &Column)> = targets
        .iter()
        .map(|target| Ok((target, slice.rows.column(&target.source)?)))
        .collect::<PolarsResult<_>>()?;
    let mut pieces = Vec::new();
    let mut text = String::new();
    for row in 0..slice.rows.height() {
        for (place, (target, column)) in columns.iter().enumerate() {
            if place > 0 {
                text.push('\t');
            }
            match cleaned::value(column, row)? {
                None => text.push_str("\\N"),
                Some(cleaned::Value::One(value)) => escape(&value, &mut text),
                Some(cleaned::Value::Many(items)) => {
                    escape(&many(items, &target.type_name), &mut text)
                }
            }
        }
        text.push('\n');
        if text.len() >= PIECE_BYTES {
            pieces.push(std::mem::take(&mut text).into_bytes());
        }
    }
    if !text.is_empty() {
        pieces.push(text.into_bytes());
    }
    Ok(pieces)
}

/// A list as the column's type wants it.
fn many(items: Vec<Option<String>>, type_name: &str) -> String {
    let is_array = type_name.ends_with("[]");
    if !is_array && !matches!(type_name, "json" | "jsonb") {
        let items: Vec<String> = items.into_iter().flatten().collect();
        return items.join(",");
    }
    let items: Vec<Value> = items.into_iter().map(Value::from).collect();
    if is_array {
        session::array(&items)
    } else {
        Value::Array(items).to_string()
    }
}

fn escape(value: &str, text: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            other => text.push(other),
        }
    }
}

#[async_trait]
impl Kind for SqlCopy {
    fn name(&self) -> &'static str {
        "sql_copy"
    }

    fn summary(&self) -> &'static str {
        "Writes the rows of a cleaned partition into a table of Postgres, by key, in one transaction"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn outputs(&self) -> Outputs {
        OUTPUTS
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = check_place(with);
        let written = |field: &str| {
            with.get(field)
                .and_then(Value::as_str)
                .filter(|text| !text.contains("{{"))
        };
        if let Some(Err(error)) = written("from").map(str::parse::<Location>) {
            problems.push(problem(Some("from"), &error.to_string(), error.hint()));
        }
        if let Some(Err(failure)) = written("table").map(Name::read) {
            let hint = failure.hint.unwrap_or_default();
            problems.push(problem(Some("table"), &failure.message, &hint));
        }
        if with
            .get("key")
            .and_then(Value::as_array)
            .is_some_and(Vec::is_empty)
        {
            problems.push(problem(
                Some("key"),
                "`key` is empty",
                "leave it out for the dataset's key, or name the columns",
            ));
        }
        if let (Some(Value::Array(key)), Some(Value::Object(columns))) =
            (with.get("key"), with.get("columns"))
        {
            for name in key.iter().filter_map(Value::as_str) {
                if !name.contains("{{") && !columns.contains_key(name) {
                    problems.push(problem(
                        Some("key"),
                        &format!("`key` names `{name}`, which `columns` does not write"),
                        "both name columns of the table",
                    ));
                }
            }
        }
        problems
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        let given = Given::new(&with);
        let from: Location = given.required_text("from")?.trim().parse()?;
        let table = Name::read(&given.required_text("table")?)?;
        let place = place(context, given).await?;
        let cleaned = Cleaned::open(&self.store, &from).await?;
        let mut columns = given.text_table("columns")?;
        if columns.is_empty() {
            columns = cleaned
                .partition
                .columns
                .iter()
                .map(|column| (column.name.clone(), column.name.clone()))
                .collect();
        }
        cleaned.check_columns("columns", columns.iter().map(|(_, source)| source.as_str()))?;
        let dataset_key = &cleaned.partition.key;
        let key = match given.texts("key")? {
            Some(key) if !key.is_empty() => key,
            Some(_) | None => columns
                .iter()
                .find(|(_, source)| source == dataset_key)
                .map(|(name, _)| vec![name.clone()])
                .ok_or_else(|| {
                    Failure::permanent(format!(
                        "no column comes from `{dataset_key}`, the dataset's key"
                    ))
                    .with_hint("add it to `columns`, or say by `key` what tells a row from another")
                })?,
        };
        if let Some(unknown) = key
            .iter()
            .find(|name| !columns.iter().any(|(column, _)| column == *name))
        {
            return Err(Failure::permanent(format!(
                "`key` names `{unknown}`, which `columns` does not write"
            )));
        }
        let job = Job {
            place: &place,
            cleaned: &cleaned,
            table: &table,
            key: &key,
            columns: &columns,
            create: given.is_set("create")?,
        };
        let mut opened = place.open(context).await?;
        let copied = tokio::select! {
            biased;
            () = context.cancel.cancelled() => None,
            copied = job.run(&mut opened.connection) => Some(copied),
        };
        let copied = match copied {
            Some(copied) => {
                opened.close().await;
                copied?
            }
            None => return Err(opened.cancel().await),
        };
        let unchanged = copied.rows.saturating_sub(copied.inserted + copied.updated);
        let mut line = format!(
            "{} rows of dataset `{}` in table {}: {} new, {} changed, {unchanged} as they were",
            copied.rows,
            cleaned.partition.dataset,
            table.quoted(),
            copied.inserted,
            copied.updated
        );
        if copied.created {
            let _infallible = write!(line, "; the table was created");
        }
        context.log.say(line).await;
        Ok(Outcome::Success {
            output: json!({
                "table": table.0.join("."),
                "created": copied.created,
                "rows": copied.rows,
                "inserted": copied.inserted,
                "updated": copied.updated,
                "unchanged": unchanged,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_never_ends_its_field_or_its_row() {
        let mut text = String::new();
        escape("a\tb\nc\rd\\N", &mut text);
        assert_eq!(text, "a\\tb\\nc\\rd\\\\N");
    }

    #[test]
    fn a_list_is_what_the_column_wants() {
        let items = || vec![Some("a\"b".to_owned()), None, Some("c,d".to_owned())];
        assert_eq!(many(items(), "text[]"), r#"{"a\"b",NULL,"c,d"}"#);
        assert_eq!(many(items(), "jsonb"), r#"["a\"b",null,"c,d"]"#);
        assert_eq!(many(items(), "text"), "a\"b,c,d");
    }

    #[test]
    fn a_name_is_quoted_and_never_becomes_sql() {
        assert_eq!(
            Name::read("s.t x").expect("a name").quoted(),
            r#""s"."t x""#
        );
        assert!(Name::read("t\"; drop table u; --").is_err());
        assert!(Name::read("a.b.c").is_err());
        assert_eq!(quoted("a\"b"), r#""a""b""#);
    }
}
