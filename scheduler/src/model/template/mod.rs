//! Templates in `with` tables: what names they may use, and how they are rendered when a try starts.
//!
//! A template reaches the values it is given and nothing else: no files, no environment, no clock. What it may compute
//! is bounded.

mod filters;
pub(super) mod language;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use chrono::{DateTime, SecondsFormat, Utc};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, syntax::SyntaxConfig};
use pinwheel_tasks::connections::CONNECTION_KEYS;
use serde_json::{Map, Value, json};

use super::{
    Params,
    dag_file::{nearest, quoted, quoted_list},
};
use language::{Shape, What};

/// What templates may see.
#[derive(Debug, Clone)]
pub struct Values {
    /// The run's params.
    pub params: Params,
    /// The outputs of finished tasks, by task id.
    pub outputs: BTreeMap<String, Value>,
    /// The events that made the run, by dataset, oldest first.
    pub triggering_datasets: BTreeMap<String, Vec<Value>>,
    /// The DAG's id.
    pub dag_id: String,
    /// The run's number.
    pub run_id: i64,
    /// The task's id.
    pub task_id: String,
    /// 1 for the first try.
    pub try_number: i32,
    /// The run's logical date.
    pub logical_date: DateTime<Utc>,
    /// Start of the run's data interval, inclusive.
    pub data_interval_start: DateTime<Utc>,
    /// End of the run's data interval, exclusive.
    pub data_interval_end: DateTime<Utc>,
    /// The item of a `foreach` and its place in the list.
    pub item: Option<(Value, i32)>,
}

/// What templates name beside them: looked up for each try, only what they name, and never kept.
#[derive(Clone, Default)]
pub struct Secrets {
    /// Variables by name.
    pub variables: BTreeMap<String, Value>,
    /// Connections by id, each a table.
    pub connections: BTreeMap<String, Value>,
}

/// What the templates of a `with` table read that has to be fetched for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reads {
    /// Tasks, for their outputs.
    pub tasks: BTreeSet<String>,
    /// Variables, by name.
    pub variables: BTreeSet<String>,
    /// Connections, by id.
    pub connections: BTreeSet<String>,
}

/// A template that cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Where in the `with` table, such as `command[2]`.
    pub path: String,
    /// What is wrong, with the path and the expression.
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
}

/// What a name of the template language stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// The run's params, by name.
    Params,
    /// The outputs of tasks, by task and name.
    Outputs,
    /// Variables, by name.
    Variables,
    /// Connections, by id and one of [`CONNECTION_KEYS`].
    Connections,
    /// The events of the datasets that the DAG waits for, by dataset.
    Datasets,
    /// A table with just these keys.
    Table(&'static [&'static str]),
    /// Text or a number.
    Scalar,
    /// The item of a `foreach`: whatever the list holds.
    Item,
    /// Its place in the list.
    ItemIndex,
}

/// The name of the events that made a run.
const DATASETS: &str = "triggering_datasets";

/// Every name a template may begin a path with.
pub(super) const NAMES: [(&str, Name); 17] = [
    ("params", Name::Params),
    ("outputs", Name::Outputs),
    ("var", Name::Variables),
    ("conn", Name::Connections),
    (DATASETS, Name::Datasets),
    ("dag", Name::Table(&["id"])),
    ("run", Name::Table(&["id"])),
    ("task", Name::Table(&["id"])),
    ("try_number", Name::Scalar),
    ("logical_date", Name::Scalar),
    ("data_interval_start", Name::Scalar),
    ("data_interval_end", Name::Scalar),
    ("ds", Name::Scalar),
    ("ds_nodash", Name::Scalar),
    ("ts", Name::Scalar),
    ("item", Name::Item),
    ("item_index", Name::ItemIndex),
];

/// Renders every template in a `with` table. Keys are never templates. A string that is exactly one `{{ expression }}`
/// becomes the expression's value with its own type; any other template becomes text.
///
/// # Errors
/// The first template that names something that is not there, or fails otherwise.
pub fn render(with: &Map<String, Value>, values: &Values) -> Result<Map<String, Value>, Error> {
    render_with(with, values, &Secrets::default())
}

/// As [`render`], for templates that may name variables and connections.
///
/// # Errors
/// The first template that names something that is not there, or fails otherwise.
pub fn render_with(
    with: &Map<String, Value>,
    values: &Values,
    secrets: &Secrets,
) -> Result<Map<String, Value>, Error> {
    let names = names(values, secrets);
    let context = minijinja::Value::from(minijinja::value::Serde(&names));
    let rendering = Rendering {
        names: &names,
        context,
    };
    with.iter()
        .map(|(key, value)| Ok((key.clone(), rendering.value(key, value)?)))
        .collect()
}

/// Renders one text that may be a template; whatever it comes to is text.
///
/// # Errors
/// The template names something that is not there, or fails otherwise.
pub fn render_text(called: &str, text: &str, values: &Values) -> Result<String, Error> {
    let rendered = render(
        &Map::from_iter([(called.to_owned(), Value::String(text.to_owned()))]),
        values,
    )?;
    Ok(match rendered.into_iter().next() {
        Some((_, Value::String(text))) => text,
        Some((_, other)) => other.to_string(),
        None => String::new(),
    })
}

/// Whether `when` lets a task run.
///
/// # Errors
/// It names something that is not there, or its value is neither true nor false.
pub fn is_true(when: &str, values: &Values, secrets: &Secrets) -> Result<bool, Error> {
    let rendered = render_with(
        &Map::from_iter([("when".to_owned(), Value::String(when.to_owned()))]),
        values,
        secrets,
    )?;
    let value = rendered.into_iter().next().map(|(_, value)| value);
    Ok(match value {
        Some(Value::Bool(truth)) => truth,
        Some(Value::Null) | None => false,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(table)) => !table.is_empty(),
        Some(Value::String(text)) => match text.trim() {
            "true" | "True" => true,
            "false" | "False" | "" => false,
            _other => {
                return Err(Error {
                    path: "when".to_owned(),
                    message: format!(
                        "`when` is the text {}, neither true nor false",
                        quoted(&text)
                    ),
                    hint: Some("compare it, as in `params.mode == \"full\"`".to_owned()),
                });
            }
        },
    })
}

/// The ids of the tasks whose outputs the templates of a `with` table read, so that no other output has to be fetched.
pub fn tasks_read(with: &Map<String, Value>) -> BTreeSet<String> {
    reads(with).tasks
}

/// What the templates of a `with` table read, so that nothing else has to be fetched.
pub fn reads(with: &Map<String, Value>) -> Reads {
    let mut reads = Reads::default();
    with.values().for_each(|value| collect(value, &mut reads));
    reads
}

fn collect(value: &Value, reads: &mut Reads) {
    match value {
        Value::String(text) if language::is_template(text) => {
            let uses = language::read(text).map_or_else(|_| Vec::new(), |template| template.uses);
            for used in uses {
                let What::Path(path) = used.what else {
                    continue;
                };
                let mut parts = path.into_iter();
                let (Some(root), Some(name)) = (parts.next(), parts.next()) else {
                    continue;
                };
                let of_root = match root.as_str() {
                    "outputs" => &mut reads.tasks,
                    "var" => &mut reads.variables,
                    "conn" => &mut reads.connections,
                    _ => continue,
                };
                of_root.insert(name);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, reads)),
        Value::Object(table) => table.values().for_each(|item| collect(item, reads)),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Says whether the templates of a `with` table read the events that made the run.
pub fn reads_datasets(with: &Map<String, Value>) -> bool {
    fn reads(value: &Value) -> bool {
        match value {
            Value::String(text) => language::is_template(text) && text.contains(DATASETS),
            Value::Array(items) => items.iter().any(reads),
            Value::Object(table) => table.values().any(reads),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    with.values().any(reads)
}

/// Names a filter that exists.
pub(super) fn is_filter(name: &str) -> bool {
    is_known(name, "name is filter")
}

/// Names a test that exists.
pub(super) fn is_test(name: &str) -> bool {
    is_known(name, "name is test")
}

/// The functions there are.
pub(super) fn functions() -> impl Iterator<Item = &'static str> {
    ENVIRONMENT.globals().map(|(name, _)| name)
}

pub(super) use filters::FILTERS;

fn is_known(name: &str, question: &'static str) -> bool {
    ENVIRONMENT
        .compile_expression(question)
        .and_then(|question| question.eval(minijinja::context! { name }))
        .is_ok_and(|answer| answer.is_true())
}

/// Roughly one per instruction and per 64 bytes: a second of work at most.
const FUEL: u64 = 5_000_000;

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_syntax(syntax());
    environment.set_fuel(Some(FUEL));
    environment.set_debug(true);
    // It would print everything a template can see.
    environment.remove_global("debug");
    filters::add(&mut environment);
    environment
});

fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder()
        .keep_trailing_newline(true)
        .build()
        .expect("the default delimiters are valid")
}

fn names(values: &Values, secrets: &Secrets) -> Map<String, Value> {
    let text =
        |date: DateTime<Utc>| Value::String(date.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    let names = json!({
        "params": values.params,
        "outputs": values.outputs,
        "var": secrets.variables,
        "conn": secrets.connections,
        DATASETS: values.triggering_datasets,
        "dag": { "id": values.dag_id },
        "run": { "id": values.run_id },
        "task": { "id": values.task_id },
        "try_number": values.try_number,
        "logical_date": text(values.logical_date),
        "data_interval_start": text(values.data_interval_start),
        "data_interval_end": text(values.data_interval_end),
        "ds": values.logical_date.format("%Y-%m-%d").to_string(),
        "ds_nodash": values.logical_date.format("%Y%m%d").to_string(),
        "ts": text(values.logical_date),
    });
    match names {
        Value::Object(mut names) => {
            if let Some((item, index)) = &values.item {
                names.insert("item".to_owned(), item.clone());
                names.insert("item_index".to_owned(), Value::from(*index));
            }
            names
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}

struct Rendering<'a> {
    names: &'a Map<String, Value>,
    context: minijinja::Value,
}

impl Rendering<'_> {
    fn value(&self, path: &str, value: &Value) -> Result<Value, Error> {
        match value {
            Value::String(text) if language::is_template(text) => self.text(path, text),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| self.value(&format!("{path}[{index}]"), item))
                .collect::<Result<_, _>>()
                .map(Value::Array),
            Value::Object(table) => table
                .iter()
                .map(|(key, item)| Ok((key.clone(), self.value(&format!("{path}.{key}"), item)?)))
                .collect::<Result<_, _>>()
                .map(Value::Object),
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => Ok(value.clone()),
        }
    }

    fn text(&self, path: &str, text: &str) -> Result<Value, Error> {
        let template = language::read(text).map_err(|error| Error {
            path: path.to_owned(),
            message: format!(
                "cannot render `{path}`: {} in {}",
                error.message,
                quoted(text)
            ),
            hint: None,
        })?;
        let rendered = match &template.shape {
            Shape::Lone(expression) => ENVIRONMENT
                .compile_expression(&text[expression.clone()])
                .and_then(|expression| expression.eval(self.context.clone()))
                .and_then(|value| native(&value)),
            Shape::Text => ENVIRONMENT
                .render_str(text, self.context.clone())
                .map(Value::String),
        };
        rendered.map_err(|error| self.explain(path, text, &template, &error))
    }

    fn explain(
        &self,
        path: &str,
        text: &str,
        template: &language::Template,
        error: &minijinja::Error,
    ) -> Error {
        let undefined = error.kind() == minijinja::ErrorKind::UndefinedError;
        let missing =
            template
                .uses
                .iter()
                .filter(|_| undefined)
                .find_map(|used| match &used.what {
                    What::Path(parts) => self
                        .missing(parts)
                        .map(|missing| (missing, &text[used.span.clone()])),
                    What::Filter(_) | What::Test(_) | What::Function(_) | What::Method(_) => None,
                });
        if let Some(((reason, hint), expression)) = missing {
            let message = format!(
                "cannot render `{path}`: {} is not there: {reason}",
                quoted(expression)
            );
            return Error {
                path: path.to_owned(),
                message,
                hint: Some(hint),
            };
        }
        // A lone expression is compiled without its braces, so places in it count from its start.
        let rendered = match &template.shape {
            Shape::Lone(expression) => &text[expression.clone()],
            Shape::Text => text,
        };
        let expression = error
            .range()
            .and_then(|range| rendered.get(range))
            .unwrap_or(rendered)
            .trim();
        let detail = match error.detail() {
            Some(detail) => format!("{}: {detail}", error.kind()),
            None => error.kind().to_string(),
        };
        Error {
            path: path.to_owned(),
            message: format!("cannot render `{path}`: {detail} in {}", quoted(expression)),
            hint: undefined.then(|| {
                "give a value for what may be missing: `{{ … | default(\"\") }}`".to_owned()
            }),
        }
    }

    /// Why the value at a path is not there, and what to do; `None` when it is.
    fn missing(&self, parts: &[String]) -> Option<(String, String)> {
        let mut table = self.names;
        for (depth, part) in parts.iter().enumerate() {
            let Some(value) = table.get(part) else {
                let reason = match (depth, parts[0].as_str()) {
                    (1, "outputs") => {
                        return Some((
                            format!("task {} left no output", quoted(part)),
                            "it was skipped, failed or has not run; a `default(…)` filter can stand in for it".to_owned(),
                        ));
                    }
                    (1, "var") => {
                        let hint = format!(
                            "`pinwheel variables set {part} …` makes it; a `default(…)` filter can stand in for it"
                        );
                        return Some((format!("there is no variable {}", quoted(part)), hint));
                    }
                    (1, "conn") => {
                        let hint = format!("`pinwheel connections set {part} …` makes it");
                        return Some((format!("there is no connection {}", quoted(part)), hint));
                    }
                    (2, "conn") if CONNECTION_KEYS.contains(&part.as_str()) => {
                        let hint = format!(
                            "set it with `pinwheel connections set {}`, or give a `default(…)`",
                            parts[1]
                        );
                        let reason = format!("connection {} has no {part}", quoted(&parts[1]));
                        return Some((reason, hint));
                    }
                    (_, "outputs") => format!(
                        "the output of {} has no {}",
                        quoted(&parts[1]),
                        quoted(part)
                    ),
                    (1, "params") => format!("the run has no param {}", quoted(part)),
                    _ => format!("there is no {}", quoted(part)),
                };
                let known = || table.keys().map(String::as_str);
                let hint = match nearest(part, known()) {
                    Some(nearest) => format!("did you mean {}?", quoted(nearest)),
                    None if table.is_empty() => "it is empty".to_owned(),
                    None => format!("there are {}", quoted_list(known())),
                };
                return Some((reason, hint));
            };
            table = match value {
                Value::Object(table) => table,
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Array(_) => return None,
            };
        }
        None
    }
}

/// The value as JSON. Undefined values inside of lists would silently become null.
fn native(value: &minijinja::Value) -> Result<Value, minijinja::Error> {
    fn is_whole(value: &minijinja::Value) -> Result<bool, minijinja::Error> {
        use minijinja::value::ValueKind;
        match value.kind() {
            ValueKind::Undefined => Ok(false),
            ValueKind::Map => {
                for key in value.try_iter()? {
                    if !is_whole(&value.get_item(&key)?)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            ValueKind::Seq | ValueKind::Iterable => {
                for item in value.try_iter()? {
                    if !is_whole(&item)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => Ok(true),
        }
    }
    if !is_whole(value)? {
        return Err(minijinja::ErrorKind::UndefinedError.into());
    }
    serde_json::to_value(value).map_err(|error| {
        minijinja::Error::new(minijinja::ErrorKind::BadSerialization, error.to_string())
    })
}

#[cfg(test)]
mod tests;
