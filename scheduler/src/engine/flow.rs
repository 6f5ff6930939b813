//! What an execution does besides running its kind: it finds out whether it should, makes the items of a list, and checks
//! what a branch chose.

use pinwheel_tasks::Failure;
use serde_json::{Map, Value};

use crate::{
    model::{
        Concurrency, Dag, Foreach, Task,
        flow::BRANCH,
        template::{self, Secrets, Values},
    },
    store::{Ending, Item},
};

/// More items are refused: each is a row in five tables.
pub(crate) const MOST_ITEMS: usize = 10_000;

/// Whether `when` lets the task run.
pub(crate) fn is_wanted(task: &Task, values: &Values, secrets: &Secrets) -> Result<bool, Failure> {
    match &task.flow.when {
        None => Ok(true),
        Some(when) => template::is_true(when, values, secrets).map_err(failure),
    }
}

/// Why a task was skipped that `when` did not let run.
pub(crate) fn not_wanted(task: &Task) -> String {
    let when = task.flow.when.as_deref().unwrap_or_default();
    let expression = when
        .strip_prefix("{{")
        .and_then(|rest| rest.strip_suffix("}}"))
        .unwrap_or(when);
    format!("`when` is false: {}", expression.trim())
}

/// The items of a mapped task, or what became of it without any.
pub(crate) fn expanded(
    task: &Task,
    foreach: &Foreach,
    values: &Values,
    secrets: &Secrets,
) -> Ending {
    match items(task, foreach, values, secrets) {
        Ok(items) if items.is_empty() => Ending::Skipped {
            reason: "its list is empty".to_owned(),
        },
        Ok(items) => Ending::Expanded { items },
        Err(failure) => Ending::Failed(failure),
    }
}

fn items(
    task: &Task,
    foreach: &Foreach,
    values: &Values,
    secrets: &Secrets,
) -> Result<Vec<Item>, Failure> {
    let table = Map::from_iter([("foreach".to_owned(), foreach.list.clone())]);
    let rendered = template::render_with(&table, values, secrets).map_err(failure)?;
    let list = match rendered.into_iter().next() {
        Some((_, Value::Array(list))) => list,
        Some((_, other)) => {
            return Err(Failure::permanent(format!(
                "`foreach` gives {}, not a list",
                described(&other)
            ))
            .with_hint("let the task above answer a list, or pick one out of its output"));
        }
        None => Vec::new(),
    };
    if list.len() > MOST_ITEMS {
        return Err(Failure::permanent(format!(
            "`foreach` gives {} items; at most {MOST_ITEMS} are allowed",
            list.len()
        ))
        .with_hint("let each item stand for a part of the list, such as a hundred files"));
    }
    list.into_iter()
        .zip(0..)
        .map(|(item, index)| {
            let values = Values {
                item: Some((item.clone(), index)),
                ..values.clone()
            };
            let name = foreach
                .item_name
                .as_ref()
                .map(|name| template::render_text("item_name", name, &values))
                .transpose()
                .map_err(failure)?;
            let key = task
                .concurrency
                .as_ref()
                .map(|Concurrency { key, .. }| {
                    template::render_text("concurrency_key", key, &values)
                })
                .transpose()
                .map_err(failure)?;
            Ok(Item { item, name, key })
        })
        .collect()
}

fn described(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

/// What a task answered, if it may: a branch chooses among the tasks directly downstream of it.
pub(crate) fn checked(dag: &Dag, task: &Task, ending: Ending) -> Ending {
    let Ending::Success { output } = &ending else {
        return ending;
    };
    if task.kind != BRANCH {
        return ending;
    }
    let chosen: Vec<String> = output
        .get("chosen")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|id| Some(id.as_str()?.to_owned()))
        .collect();
    match dag.check_choice(task, &chosen) {
        Ok(()) => ending,
        Err(unknown) => {
            let below: Vec<String> = task
                .downstream
                .iter()
                .map(|below| format!("`{}`", dag.tasks[*below].id))
                .collect();
            Ending::Failed(
                Failure::permanent(format!(
                    "it chose `{unknown}`, which is not directly downstream of it"
                ))
                .with_hint(format!("directly downstream are {}", below.join(", "))),
            )
        }
    }
}

fn failure(error: template::Error) -> Failure {
    let failure = Failure::permanent(format!(
        "the template in `{}` cannot be rendered: {}",
        error.path, error.message
    ));
    match error.hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}
