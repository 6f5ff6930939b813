//! `wait_for_run`: waits for a run of another DAG.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem, RunState,
    WhichRun,
    given::Given,
    sensor::{self, Seen, moved_back, written},
};

const FIELDS: &[Field] = &[
    Field {
        name: "dag",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "The id of the DAG whose run it waits for",
    },
    Field {
        name: "logical_date",
        field_type: FieldType::Text,
        presence: Presence::Optional {
            default: "that of its own run",
        },
        doc: "Which run: the logical date, such as `2026-01-31T02:00:00Z`; may be a template",
    },
    Field {
        name: "earlier",
        field_type: FieldType::Duration,
        presence: Presence::Optional { default: "\"0s\"" },
        doc: "The run that lies so much before that date",
    },
    Field {
        name: "last",
        field_type: FieldType::Boolean,
        presence: Presence::Optional { default: "false" },
        doc: "The run with the latest logical date instead, whatever that is",
    },
    Field {
        name: "states",
        field_type: FieldType::TextList,
        presence: Presence::Optional {
            default: "[\"success\"]",
        },
        doc: "What it waits for: `success`, `failed`, `cancelled`, `running`, `queued`",
    },
    Field {
        name: "fail_states",
        field_type: FieldType::TextList,
        presence: Presence::Optional { default: "[]" },
        doc: "States at which it fails at once; else it waits on, because a failed run may be cleared",
    },
    sensor::POKE_INTERVAL,
    sensor::TIMEOUT,
    sensor::SOFT_FAIL,
];

/// The kind `wait_for_run`.
#[derive(Debug, Clone, Copy, Default)]
pub struct WaitForRun;

#[async_trait]
impl Kind for WaitForRun {
    fn name(&self) -> &'static str {
        "wait_for_run"
    }

    fn summary(&self) -> &'static str {
        "Waits for a run of another DAG, without holding a worker"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn outputs(&self) -> Outputs {
        Outputs::Known(&[
            ("run_id", "The run"),
            ("logical_date", "Its logical date"),
            ("state", "The state it was found in"),
        ])
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = sensor::check(with);
        for field in ["states", "fail_states"] {
            let written = with
                .get(field)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .filter(|word| !word.contains("{{"));
            for word in written {
                if RunState::of_word(word).is_none() {
                    problems.push(Problem {
                        field: Some(field.to_owned()),
                        message: format!("`{word}` is no state of a run"),
                        hint: Some(hint()),
                    });
                }
            }
        }
        if with.get("last") == Some(&Value::Bool(true)) {
            for field in ["logical_date", "earlier"] {
                if with.contains_key(field) {
                    problems.push(Problem {
                        field: Some(field.to_owned()),
                        message: format!("both `last` and `{field}` are given"),
                        hint: Some("remove one of them".to_owned()),
                    });
                }
            }
        }
        problems
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        sensor::look(context, &with, look(context, &with)).await
    }
}

async fn look(context: &Context, with: &Map<String, Value>) -> Result<Seen, Failure> {
    let given = Given::new(with);
    let dag = given.required_text("dag")?;
    let wanted = states(given, "states")?.unwrap_or_else(|| vec![RunState::Success]);
    let failing = states(given, "fail_states")?.unwrap_or_default();
    let (which, called) = if given.is_set("last")? {
        (WhichRun::Last, format!("the last run of `{dag}`"))
    } else {
        let date = given
            .instant("logical_date")?
            .unwrap_or(context.instance.logical_date);
        let earlier = given.duration("earlier")?.unwrap_or_default();
        let date = moved_back(date, earlier)
            .ok_or_else(|| Failure::permanent("`earlier` lies beyond the calendar"))?;
        let called = format!("the run of `{dag}` for {}", written(date));
        (WhichRun::Of(date), called)
    };
    let Some(run) = context.orchestrator.run_of(&dag, which).await? else {
        return Ok(Seen::NotYet(format!("{called} does not exist yet")));
    };
    let state = run.state;
    if wanted.contains(&state) {
        return Ok(Seen::There(json!({
            "run_id": run.run_id, "logical_date": written(run.logical_date), "state": state.word(),
        })));
    }
    if failing.contains(&state) {
        return Err(Failure::permanent(format!(
            "{called} (run {}) is {}",
            run.run_id,
            state.word()
        ))
        .with_hint("see why that run ended so; clear it, then this task"));
    }
    Ok(Seen::NotYet(format!(
        "{called} (run {}) is {}",
        run.run_id,
        state.word()
    )))
}

fn states(given: Given<'_>, field: &str) -> Result<Option<Vec<RunState>>, Failure> {
    let Some(words) = given.texts(field)? else {
        return Ok(None);
    };
    words
        .iter()
        .map(|word| {
            RunState::of_word(word).ok_or_else(|| {
                Failure::permanent(format!(
                    "`{field}` has `{word}`, which is no state of a run"
                ))
                .with_hint(hint())
            })
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

fn hint() -> String {
    let words: Vec<_> = RunState::ALL
        .iter()
        .map(|state| format!("`{}`", state.word()))
        .collect();
    format!("the states are {}", words.join(", "))
}
