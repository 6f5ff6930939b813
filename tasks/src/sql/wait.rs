//! `wait_for_sql`: waits until a statement answers something true.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::{CONNECTION, PARAMS, URL, check_common, place, session, text};
use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem,
    given::Given,
    sensor::{self, Seen},
};

const FIELDS: &[Field] = &[
    CONNECTION,
    URL,
    Field {
        name: "statement",
        field_type: FieldType::Verbatim,
        presence: Presence::Required,
        doc: "SQL. It has seen what it waits for when the first cell of its first row is neither null, false, 0 nor an empty text. Never templated",
    },
    PARAMS,
    sensor::POKE_INTERVAL,
    sensor::TIMEOUT,
    sensor::SOFT_FAIL,
];

/// The kind `wait_for_sql`.
#[derive(Debug, Clone, Copy, Default)]
pub struct WaitForSql;

#[async_trait]
impl Kind for WaitForSql {
    fn name(&self) -> &'static str {
        "wait_for_sql"
    }

    fn summary(&self) -> &'static str {
        "Waits until a statement in a Postgres database answers something true, without holding a worker"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn outputs(&self) -> Outputs {
        Outputs::Known(&[("row", "The first row, as a table")])
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = check_common(with);
        problems.extend(sensor::check(with));
        problems
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        sensor::look(context, &with, look(context, &with)).await
    }
}

async fn look(context: &Context, with: &Map<String, Value>) -> Result<Seen, Failure> {
    let given = Given::new(with);
    let place = place(context, given).await?;
    let statements = text::statements(&given.required_text("statement")?)?;
    let params = session::params(given.value("params"))?;
    let answer = place.run(context, &statements, &params, 1).await?;
    let Some(row) = answer.rows.into_iter().next() else {
        return Ok(Seen::NotYet("the statement answers no row".to_owned()));
    };
    let first = row
        .as_object()
        .and_then(|row| row.values().next())
        .unwrap_or(&Value::Null);
    if is_true(first) {
        return Ok(Seen::There(json!({ "row": row })));
    }
    let shown: String = first.to_string().chars().take(100).collect();
    Ok(Seen::NotYet(format!("the statement answers {shown}")))
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !matches!(text.as_str(), "" | "0"),
        Value::Array(_) | Value::Object(_) => true,
    }
}
