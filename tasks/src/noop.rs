//! `noop`: does nothing. It joins and names places in a graph, and stands in for a task that does not exist yet.

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::{Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem};

/// The kind `noop`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Noop;

#[async_trait]
impl Kind for Noop {
    fn name(&self) -> &'static str {
        "noop"
    }

    fn summary(&self) -> &'static str {
        "Does nothing and succeeds; its `output` table becomes its output"
    }

    fn fields(&self) -> &'static [Field] {
        &[Field {
            name: "output",
            field_type: FieldType::Any,
            presence: Presence::Optional { default: "{}" },
            doc: "A table that becomes the task's output; strings in it may be templates",
        }]
    }

    fn outputs(&self) -> Outputs {
        Outputs::Free
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        match with.get("output") {
            // A text may be a template that gives a table.
            None | Some(Value::Object(_) | Value::String(_)) => Vec::new(),
            Some(_) => vec![Problem {
                field: Some("output".to_owned()),
                message: "`output` is not a table".to_owned(),
                hint: Some("write `output = { name = \"value\" }`".to_owned()),
            }],
        }
    }

    async fn run(&self, _context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        match with.get("output") {
            None => Ok(Outcome::success()),
            Some(output @ Value::Object(_)) => Ok(Outcome::Success { output: output.clone() }),
            Some(_) => Err(Failure::permanent("`output` did not become a table")
                .with_hint("a template in `output` must give a table, as in `output = { name = \"value\" }`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::shell::tests::{context, table};

    #[tokio::test]
    async fn a_noop_gives_its_output_table_back() {
        let (context, _lines) = context(json!({}));
        let outcome = Noop
            .run(&context, table(json!({"output": {"rows": 3}})))
            .await
            .expect("it cannot fail");
        assert_eq!(
            outcome,
            Outcome::Success {
                output: json!({"rows": 3})
            }
        );
        assert_eq!(
            Noop.run(&context, Map::new())
                .await
                .expect("it cannot fail"),
            Outcome::success()
        );
        assert!(
            Noop.run(&context, table(json!({"output": 3})))
                .await
                .is_err()
        );
        assert_eq!(Noop.check(&table(json!({"output": 3}))).len(), 1);
    }
}
