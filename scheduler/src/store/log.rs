//! Log lines and rendered templates: written in batches, and with the result they belong to.

use chrono::{DateTime, Utc};
use pinwheel_tasks::LogStream;
use serde_json::Value;
use sqlx::PgConnection;

use super::{
    Error, Store,
    text::{storable, storable_value},
};
use crate::model::InstanceId;

/// One line of a task's log, on its way to the store.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// The task instance.
    pub instance_id: InstanceId,
    /// The claim it was written under.
    pub epoch: i32,
    /// Its number within the claim, from 1.
    pub line: i32,
    /// The try.
    pub try_number: i32,
    /// When, by the worker's clock.
    pub at: DateTime<Utc>,
    /// Where it came from.
    pub stream: LogStream,
    /// The text.
    pub message: String,
}

impl Store {
    /// Appends log lines, and keeps what templates became: `(task instance, try, rendered)`. Doing it again changes
    /// nothing.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn append(
        &self,
        lines: &[LogLine],
        rendered: &[(InstanceId, i32, Value)],
    ) -> Result<(), Error> {
        let mut connection = self.engine.acquire().await?;
        for batch in lines.chunks(1000) {
            insert_lines(&mut connection, &batch.iter().collect::<Vec<_>>()).await?;
        }
        let rendered: Vec<_> = rendered
            .iter()
            .map(|(instance, number, value)| (*instance, *number, value))
            .collect();
        upsert_rendered(&mut connection, &rendered).await
    }
}

pub(super) async fn insert_lines(
    connection: &mut PgConnection,
    lines: &[&LogLine],
) -> Result<(), Error> {
    if lines.is_empty() {
        return Ok(());
    }
    let instances: Vec<i64> = lines.iter().map(|line| line.instance_id.0).collect();
    let epochs: Vec<i32> = lines.iter().map(|line| line.epoch).collect();
    let numbers: Vec<i32> = lines.iter().map(|line| line.line).collect();
    let tries: Vec<i32> = lines.iter().map(|line| line.try_number).collect();
    let times: Vec<DateTime<Utc>> = lines.iter().map(|line| line.at).collect();
    let streams: Vec<String> = lines
        .iter()
        .map(|line| stream_name(line.stream).to_owned())
        .collect();
    let messages: Vec<String> = lines
        .iter()
        .map(|line| storable(&line.message).into_owned())
        .collect();
    sqlx::query_file!(
        "src/store/queries/insert_log_lines.sql",
        &instances,
        &epochs,
        &numbers,
        &tries,
        &times,
        &streams,
        &messages
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn upsert_rendered(
    connection: &mut PgConnection,
    rendered: &[(InstanceId, i32, &Value)],
) -> Result<(), Error> {
    if rendered.is_empty() {
        return Ok(());
    }
    let instances: Vec<i64> = rendered.iter().map(|(instance, _, _)| instance.0).collect();
    let tries: Vec<i32> = rendered.iter().map(|(_, number, _)| *number).collect();
    let values: Vec<Value> = rendered
        .iter()
        .map(|(_, _, value)| storable_value(value))
        .collect();
    sqlx::query_file!(
        "src/store/queries/upsert_rendered.sql",
        &instances,
        &tries,
        &values
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn stream_name(stream: LogStream) -> &'static str {
    match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        LogStream::Task => "task",
    }
}
