//! One connection and its one transaction. What is running there ends with the try: who cancels tells the server, and a server
//! whose client is gone notices by itself.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use futures::TryStreamExt as _;
use serde_json::{Map, Value};
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Connection, Either, Error, Executor, PgConnection, Row,
    SqlSafeStr, Statement as _,
    postgres::{PgArguments, PgConnectOptions, PgDatabaseError, types::Oid},
};

use super::text::{self, Statement};
use crate::{Context, Failure, FailureClass};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// Of the rows that become output: an output has to fit into 256 KiB.
const MOST_BYTES: usize = 200 * 1024;

/// A database, as a task names it.
pub(super) struct Place {
    options: PgConnectOptions,
    /// Without the password.
    called: String,
}

/// What the last statement answered, and what the others did.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) rows: Vec<Value>,
    /// Whether there were more rows than were wanted.
    pub(super) is_cut: bool,
    /// Rows that statements without an answer have changed.
    pub(super) affected: u64,
}

/// A connection of one try, and what the server calls it.
pub(super) struct Opened<'p> {
    place: &'p Place,
    pub(super) connection: PgConnection,
    pid: i32,
}

impl Opened<'_> {
    /// Says goodbye, after the transaction is over: nothing is lost when the goodbye is.
    pub(super) async fn close(self) {
        let _said_goodbye =
            tokio::time::timeout(Duration::from_secs(1), self.connection.close()).await;
    }

    /// Ends what the server does for us; the answer is the try's.
    pub(super) async fn cancel(self) -> Failure {
        let _told = tokio::time::timeout(CANCEL_TIMEOUT, self.place.cancel(self.pid)).await;
        self.place.stopped()
    }
}

/// The values of parameters, by number or name.
pub(super) type Params = Map<String, Value>;

impl Place {
    pub(super) fn of_url(url: &str) -> Result<Self, Failure> {
        let hint = "write it as `postgres://user:password@host:5432/database`";
        // The parser's own words may repeat the password.
        let refuse =
            || Failure::permanent("`url` is no address of a Postgres database").with_hint(hint);
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(refuse());
        }
        let options = PgConnectOptions::from_str(url.trim()).map_err(|_| refuse())?;
        let called = format!(
            "{}:{}/{}",
            options.get_host(),
            options.get_port(),
            options.get_database().unwrap_or_default()
        );
        Ok(Self {
            // A task says what went wrong in its own words.
            options: options.disable_statement_logging(),
            called,
        })
    }

    /// Opens a connection that carries the name of the try.
    pub(super) async fn open(&self, context: &Context) -> Result<Opened<'_>, Failure> {
        let instance = &context.instance;
        let name = format!(
            "pinwheel {}.{} run {}",
            instance.dag_id, instance.task_id, instance.run_id
        );
        let options = self.options.clone().application_name(&name);
        crate::tls::choose_cryptography();
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, async {
            let mut connection = options.connect().await?;
            // Postgres before 14 does not have the setting.
            let pid = first_number(
                &mut connection,
                "select pg_backend_pid(), (select set_config(name, '5000', false) from pg_settings
                    where name = 'client_connection_check_interval')",
            )
            .await?;
            Ok((connection, pid))
        });
        let (connection, pid) = tokio::select! {
            biased;
            () = context.cancel.cancelled() => return Err(self.stopped()),
            connected = connecting => match connected {
                Ok(connected) => connected.map_err(|error: Error| self.explain("", &error))?,
                Err(_) => return Err(Failure::retryable(format!("{} does not answer", self.called))),
            },
        };
        Ok(Opened {
            place: self,
            connection,
            pid,
        })
    }

    /// Runs statements in one transaction; all of them or none.
    pub(super) async fn run(
        &self,
        context: &Context,
        statements: &[Statement],
        params: &Params,
        limit: usize,
    ) -> Result<Answer, Failure> {
        let mut opened = self.open(context).await?;
        let answer = tokio::select! {
            biased;
            () = context.cancel.cancelled() => None,
            answer = self.run_in(&mut opened.connection, statements, params, limit) => Some(answer),
        };
        match answer {
            Some(answer) => {
                opened.close().await;
                answer
            }
            None => Err(opened.cancel().await),
        }
    }

    /// Ends what the server does for us, which would go on without anybody to hear the answer.
    async fn cancel(&self, pid: i32) -> Result<(), Error> {
        let mut other = self.options.connect().await?;
        let mut arguments = PgArguments::default();
        sqlx::Arguments::add(&mut arguments, pid).map_err(Error::Encode)?;
        let telling = sqlx::query_with("select pg_terminate_backend($1)", arguments);
        telling.execute(&mut other).await?;
        other.close().await
    }

    async fn run_in(
        &self,
        connection: &mut PgConnection,
        statements: &[Statement],
        params: &Params,
        limit: usize,
    ) -> Result<Answer, Failure> {
        let mut transaction = connection
            .begin()
            .await
            .map_err(|error| self.explain("", &error))?;
        let mut answer = Answer::default();
        for (number, statement) in statements.iter().enumerate() {
            let place = match statements.len() {
                1 => String::new(),
                _ => format!("statement {}: ", number + 1),
            };
            let wanted = (number + 1 == statements.len()).then_some(limit);
            run_one(&mut transaction, statement, params, wanted, &mut answer)
                .await
                .map_err(|error| match error {
                    Stop::Failure(failure) => Failure {
                        message: format!("{place}{}", failure.message),
                        ..failure
                    },
                    Stop::Sql(error) => self.explain(&place, &error),
                })?;
        }
        transaction
            .commit()
            .await
            .map_err(|error| self.explain("", &error))?;
        Ok(answer)
    }

    fn stopped(&self) -> Failure {
        Failure {
            class: FailureClass::Cancelled,
            ..Failure::permanent(format!("the statements at {} were stopped", self.called))
        }
    }

    /// What an error of the client means to the task.
    pub(super) fn explain(&self, place: &str, error: &Error) -> Failure {
        let called = &self.called;
        let Error::Database(refused) = error else {
            let message = format!("{place}{called}: {error}");
            return match error {
                Error::Io(_) | Error::Protocol(_) | Error::WorkerCrashed => {
                    Failure::retryable(message)
                }
                Error::Tls(_) => Failure::permanent(message).with_hint(
                    "`sslmode` says what is checked: `require` encrypts, `verify-full` also checks the name and the certificate against `sslrootcert`, or without it against the public authorities",
                ),
                _ => Failure::permanent(message),
            };
        };
        let code = refused.code().unwrap_or_default();
        let row = refused
            .try_downcast_ref::<PgDatabaseError>()
            .and_then(PgDatabaseError::r#where)
            .and_then(copied_row)
            .unwrap_or_default();
        let message = format!("{place}{}{row} ({code} at {called})", refused.message());
        match code.get(..2).unwrap_or_default() {
            // Connections, serialization, resources, operators: the same may work the next time. So may a broken constraint:
            // what it needs may be there by then.
            "08" | "40" | "53" | "55" | "57" | "58" | "23" | "XX" => Failure::retryable(message),
            "28" => Failure::permanent(message).with_hint("check user and password in `url`"),
            "42" => match code.as_ref() {
                "42P18" => Failure::permanent(message)
                    .with_hint("say which type the parameter has: `$name::text`"),
                "42P10" => Failure::permanent(message)
                    .with_hint("`on conflict` needs a unique index or a primary key over exactly these columns"),
                _ => Failure::permanent(message),
            },
            _ => Failure::permanent(message),
        }
    }
}

/// Which row of a `copy` Postgres speaks of, without the value that it quotes.
fn copied_row(words: &str) -> Option<String> {
    let copied = words.strip_prefix("COPY ")?;
    let place = copied.lines().next()?.split(": ").next()?;
    let (_, place) = place.split_once(", ")?;
    Some(format!(", {place}"))
}

enum Stop {
    Failure(Failure),
    Sql(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Sql(error)
    }
}

/// Runs a statement to its end, whoever reads how many of its rows. `wanted` is how many become output; none is for one
/// whose rows nobody reads.
async fn run_one(
    connection: &mut PgConnection,
    statement: &Statement,
    params: &Params,
    wanted: Option<usize>,
    answer: &mut Answer,
) -> Result<(), Stop> {
    let names = statement.params();
    let asked = statement.numbered(|number| format!("${}", number + 1));
    let described = (&mut *connection)
        .prepare(AssertSqlSafe(asked).into_sql_str())
        .await?;
    let types: Vec<Oid> = match described.parameters() {
        Some(Either::Left(types)) => types.iter().filter_map(|kind| kind.oid()).collect(),
        Some(Either::Right(_)) | None => Vec::new(),
    };
    let answers_rows = !described.columns().is_empty();
    let types = type_names(connection, &types).await?;
    let mut arguments = PgArguments::default();
    for (number, name) in names.iter().enumerate() {
        let Some(value) = params.get(*name) else {
            return Err(Stop::Failure(missing(name, params)));
        };
        let kind = types.get(number).map_or("text", String::as_str);
        sqlx::Arguments::add(&mut arguments, written(value, kind)).map_err(Error::Encode)?;
    }
    // Every value goes as text and is read by Postgres as the type that it found for the parameter.
    let text = statement.numbered(|number| {
        let kind = types.get(number).map_or("text", String::as_str);
        format!("cast(cast(${} as text) as {kind})", number + 1)
    });
    let Some(wanted) = wanted.filter(|_| answers_rows) else {
        let done = sqlx::query_with(AssertSqlSafe(text), arguments)
            .persistent(false)
            .execute(connection)
            .await?;
        if !answers_rows {
            answer.affected += done.rows_affected();
        }
        return Ok(());
    };
    let is_table = matches!(
        statement.verb().as_str(),
        "select" | "values" | "table" | "with" | "insert" | "update" | "delete" | "merge"
    );
    let mut rows = if is_table {
        let text = text::rows_as_json(&text, wanted.saturating_add(1));
        sqlx::query_with(AssertSqlSafe(text), arguments)
            .persistent(false)
            .fetch(connection)
    } else if names.is_empty() {
        // Asked in this way, Postgres answers every type as text.
        sqlx::raw_sql(AssertSqlSafe(text)).fetch(connection)
    } else {
        sqlx::query_with(AssertSqlSafe(text), arguments)
            .persistent(false)
            .fetch(connection)
    };
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        if answer.is_cut {
            continue;
        }
        let value = if is_table {
            let text: String = row.try_get(0)?;
            bytes += text.len();
            serde_json::from_str(&text).map_err(|error| Error::Decode(error.into()))?
        } else {
            let columns = row.columns().iter().enumerate().map(|(index, column)| {
                let text: Option<String> = row.try_get_unchecked(index)?;
                bytes += text.as_ref().map_or(0, String::len);
                Ok::<_, Error>((column.name().to_owned(), Value::from(text)))
            });
            Value::Object(columns.collect::<Result<_, Error>>()?)
        };
        if answer.rows.len() == wanted || bytes > MOST_BYTES {
            answer.is_cut = true;
        } else {
            answer.rows.push(value);
        }
    }
    Ok(())
}

/// How Postgres writes these types.
async fn type_names(connection: &mut PgConnection, types: &[Oid]) -> Result<Vec<String>, Error> {
    if types.is_empty() {
        return Ok(Vec::new());
    }
    let mut arguments = PgArguments::default();
    sqlx::Arguments::add(&mut arguments, types.to_vec()).map_err(Error::Encode)?;
    // With -1 for the length: without it `character` would be cut to one.
    let rows = sqlx::query_with(
        "select format_type(kind, -1) from unnest($1::oid[]) with ordinality as t (kind, place) order by place",
        arguments,
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

async fn first_number(connection: &mut PgConnection, sql: &'static str) -> Result<i32, Error> {
    connection.fetch_one(sql).await?.try_get(0)
}

fn missing(name: &str, params: &Params) -> Failure {
    let known: Vec<String> = params.keys().map(|name| format!("`{name}`")).collect();
    let failure = Failure::permanent(format!(
        "the statement needs the parameter `{name}`, which is not given"
    ));
    match known.as_slice() {
        [] => failure.with_hint(format!("give it by `params = {{ {name} = … }}`")),
        some => failure.with_hint(format!("`params` has {}", some.join(", "))),
    }
}

/// A value as the text that Postgres reads it from.
fn written(value: &Value, kind: &str) -> Option<String> {
    let is_json = matches!(kind, "json" | "jsonb");
    match value {
        Value::Null => None,
        Value::String(text) if !is_json => Some(text.clone()),
        Value::Array(items) if kind.ends_with("[]") => Some(array(items)),
        Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => Some(value.to_string()),
    }
}

/// A list as Postgres writes arrays.
pub(super) fn array(items: &[Value]) -> String {
    let items: Vec<String> = items
        .iter()
        .map(|item| match item {
            Value::Null => "NULL".to_owned(),
            Value::Array(items) => array(items),
            other => {
                let text = match other {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            }
        })
        .collect();
    format!("{{{}}}", items.join(","))
}

/// Values given as a list are `$1`, `$2` and so on; given as a table they are `$name`.
pub(super) fn params(value: Option<&Value>) -> Result<Params, Failure> {
    match value {
        None => Ok(Map::new()),
        Some(Value::Object(table)) => Ok(table.clone()),
        Some(Value::Array(items)) => Ok(items
            .iter()
            .enumerate()
            .map(|(index, value)| ((index + 1).to_string(), value.clone()))
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .collect()),
        Some(_) => Err(Failure::permanent("`params` is no list and no table")
            .with_hint("write `params = { day = \"{{ ds }}\" }` for `$day`, or a list for `$1`")),
    }
}
