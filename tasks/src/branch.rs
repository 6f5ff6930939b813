//! `branch`: chooses which of its direct downstream tasks go on. It only names them; who reads its output skips the others.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem, given::Given,
};

/// The kind `branch`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Branch;

const HINT: &str = "write `choose = \"task\"` or `choose = [\"one\", \"other\"]`";

#[async_trait]
impl Kind for Branch {
    fn name(&self) -> &'static str {
        "branch"
    }

    fn summary(&self) -> &'static str {
        "Chooses which of its direct downstream tasks go on; the others are skipped"
    }

    fn fields(&self) -> &'static [Field] {
        &[Field {
            name: "choose",
            field_type: FieldType::Any,
            presence: Presence::Required,
            doc: "The id of a direct downstream task, or a list of ids; may be a template. An empty text or list skips all of them",
        }]
    }

    fn outputs(&self) -> Outputs {
        Outputs::Known(&[("chosen", "The ids of the chosen tasks, as a list")])
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        match Given::new(with).texts("choose") {
            Ok(_) => Vec::new(),
            Err(failure) => vec![Problem {
                field: Some("choose".to_owned()),
                message: failure.message,
                hint: Some(HINT.to_owned()),
            }],
        }
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        let mut chosen: Vec<String> = Vec::new();
        let named = Given::new(&with)
            .texts("choose")
            .map_err(|failure| failure.with_hint(HINT))?;
        for id in named.unwrap_or_default() {
            let id = id.trim();
            if !id.is_empty() && !chosen.iter().any(|known| known == id) {
                chosen.push(id.to_owned());
            }
        }
        let said = match chosen.as_slice() {
            [] => "chose none of the tasks below".to_owned(),
            some => format!("chose {}", some.join(", ")),
        };
        context.log.say(said).await;
        Ok(Outcome::Success {
            output: json!({ "chosen": chosen }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::tests::{context, table};

    #[tokio::test]
    async fn a_branch_names_each_task_once() {
        for (choose, chosen) in [
            (json!("load"), json!(["load"])),
            (json!([" load", "check", "load"]), json!(["load", "check"])),
            (json!([]), json!([])),
            (json!(""), json!([])),
            (json!(null), json!([])),
        ] {
            let (context, _lines) = context(json!({}));
            let outcome = Branch
                .run(&context, table(json!({ "choose": choose })))
                .await;
            let output = json!({ "chosen": chosen });
            assert_eq!(outcome, Ok(Outcome::Success { output }), "{choose}");
        }
    }

    #[tokio::test]
    async fn what_names_no_task_is_refused_when_read_and_when_run() {
        for choose in [json!({"load": true}), json!([["load"]])] {
            let with = table(json!({ "choose": choose }));
            assert_eq!(Branch.check(&with).len(), 1);
            let (context, _lines) = context(json!({}));
            let failure = Branch.run(&context, with).await.expect_err("no task");
            assert_eq!(failure.class, crate::FailureClass::Permanent);
        }
    }
}
