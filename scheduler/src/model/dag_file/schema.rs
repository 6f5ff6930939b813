//! The JSON Schema of DAG files, so that editors complete and check them.

use pinwheel_tasks::{Field, FieldType, Kind, Presence, Registry};
use serde_json::{Map, Value, json};

use super::{alerts, header::MAX_ACTIVE_RUNS, policy::Policy};
use crate::model::{DatasetName, Event, Origin, Overlap, ParamType, TriggerRule};

const NAME: &str = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$";
const DURATION: &str = r"^\s*(\d+\s*(ms|s|m|h|d|w)\s*)+$";

/// The JSON Schema (draft 2020-12) of a DAG file, with the `with` table of every kind in `registry`.
pub fn schema(registry: &Registry) -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Pinwheel DAG file",
        "description": "One DAG: when it runs, the params it takes, and its tasks",
        "type": "object",
        "required": ["dag", "tasks"],
        "additionalProperties": false,
        "properties": {
            "dag": dag(),
            "params": {
                "type": "object",
                "description": "The params a run takes, by name; templates read them as `params.NAME`",
                "propertyNames": { "pattern": NAME },
                "additionalProperties": param(),
            },
            "defaults": {
                "type": "object",
                "description": "For every task; each task may override them",
                "additionalProperties": false,
                "properties": policy(),
            },
            "groups": {
                "type": "object",
                "description": "What there is to say of groups of tasks: those whose id begins with the group's name and a dot",
                "propertyNames": { "pattern": NAME },
                "additionalProperties": {
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "description": { "type": "string", "description": "One sentence for people" },
                        "after": {
                            "type": "array",
                            "items": { "type": "string" },
                            "description": "What the first tasks of the group come after",
                        },
                    },
                },
            },
            "tasks": {
                "type": "object",
                "description": "The tasks, by id",
                "minProperties": 1,
                "propertyNames": { "pattern": NAME },
                "additionalProperties": task(registry),
            },
            "deadline": {
                "type": "array",
                "description": "By when a run, or one of its tasks, must be done",
                "items": deadline(),
            },
            "notify": {
                "type": "array",
                "description": "Who is told of what",
                "items": notify(),
            },
        },
        "$defs": {
            "duration": {
                "type": "string",
                "description": "Numbers with a unit, such as 90s, 15m or 1h 30m",
                "pattern": DURATION,
            },
            "failure": {
                "type": "string",
                "description": "error, timeout, panic, killed, or exit codes such as exit:75 and exit:64-78",
                "pattern": r"^(error|timeout|panic|killed|exit:\d{1,3}(-\d{1,3})?)$",
            },
            "template": { "type": "string", "pattern": r"\{\{|\{%" },
            "schedule": {
                "description": "A cron expression of 5 fields (6 with seconds first), a preset such as @daily, an interval, or instants",
                "oneOf": [
                    { "type": "string" },
                    {
                        "type": "object",
                        "required": ["every"],
                        "additionalProperties": false,
                        "properties": {
                            "every": { "$ref": "#/$defs/duration" },
                            "anchor": { "type": "string", "description": "A date from which the intervals are counted; without it from `start`" },
                        },
                    },
                    {
                        "type": "object",
                        "required": ["at"],
                        "additionalProperties": false,
                        "properties": {
                            "at": { "type": "array", "minItems": 1, "items": { "type": "string" }, "description": "The dates at which it runs" },
                        },
                    },
                    {
                        "type": "object",
                        "required": ["datasets"],
                        "additionalProperties": false,
                        "properties": { "datasets": { "$ref": "#/$defs/datasets" } },
                    },
                ],
            },
            "dataset": {
                "type": "string",
                "description": "A dataset: a URI or a name",
                "pattern": r"^[^\s{}]+$",
                "maxLength": DatasetName::LONGEST,
            },
            "datasets": {
                "description": "The datasets whose updates it waits for: one, `all` of several, or `any` of them",
                "oneOf": [
                    { "$ref": "#/$defs/dataset" },
                    datasets("all", "It runs when each of them was updated"),
                    datasets("any", "It runs when one of them was updated"),
                ],
            },
        },
    })
}

fn dag() -> Value {
    json!({
        "type": "object",
        "required": ["id"],
        "additionalProperties": false,
        "properties": {
            "id": { "type": "string", "pattern": NAME, "description": "Unique among all DAG files" },
            "description": { "type": "string", "description": "One sentence for people" },
            "schedule": {
                "description": "When it runs by itself; several schedules are a list; without one it only runs by hand",
                "oneOf": [
                    { "$ref": "#/$defs/schedule" },
                    { "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/schedule" } },
                ],
            },
            "timezone": { "type": "string", "default": "UTC", "description": "The IANA zone whose clock the schedule follows" },
            "start": { "type": "string", "description": "No scheduled run for an interval before this date" },
            "end": { "type": "string", "description": "No scheduled run for an interval that begins after this date" },
            "catchup": {
                "enum": ["none", "latest", "all"],
                "default": "none",
                "description": "What becomes of intervals that passed while nothing was watching",
            },
            "catchup_window": {
                "$ref": "#/$defs/duration",
                "description": "Intervals that passed unwatched longer ago are not made up for; no limit without it",
            },
            "jitter": {
                "$ref": "#/$defs/duration",
                "description": "Runs are made later by up to so much, each DAG by another time; dates stay as they are",
            },
            "overlap": {
                "enum": Overlap::ALL.map(Overlap::as_str),
                "default": Overlap::default().as_str(),
                "description": "What becomes of a tick while `max_active_runs` runs are queued or running",
            },
            "max_active_runs": {
                "type": "integer",
                "minimum": 1,
                "maximum": 10_000,
                "default": MAX_ACTIVE_RUNS,
                "description": "How many runs may be running at once",
            },
            "max_active_tasks": {
                "type": "integer",
                "minimum": 1,
                "maximum": 10_000,
                "description": "How many tasks of one run may be running at once; no limit without it",
            },
            "no_success_for": {
                "$ref": "#/$defs/duration",
                "description": "The event `deadline` happens when no run has succeeded for so long",
            },
            "timeout": {
                "$ref": "#/$defs/duration",
                "description": "The longest a run may take; then it fails, and what is unfinished is skipped",
            },
        },
    })
}

fn deadline() -> Value {
    json!({
        "type": "object",
        "required": ["from", "after"],
        "additionalProperties": false,
        "properties": {
            "from": {
                "enum": Origin::ALL.map(Origin::as_str),
                "description": "When it begins to count: when the run should have been made by its schedule, when it was made, or when it started",
            },
            "after": { "$ref": "#/$defs/duration", "description": "How long after that" },
            "task": { "type": "string", "pattern": NAME, "description": "The task that must be done by then; the run without it" },
            "name": { "type": "string", "minLength": 1, "maxLength": alerts::LONGEST_NAME, "description": "What people call it" },
        },
    })
}

fn notify() -> Value {
    json!({
        "type": "object",
        "required": ["on", "to"],
        "additionalProperties": false,
        "properties": {
            "on": {
                "type": "array",
                "minItems": 1,
                "items": { "enum": Event::ALL.map(Event::as_str) },
                "description": "Of what somebody is told",
            },
            "to": { "type": "string", "pattern": NAME, "description": "The channel's name in the settings" },
            "tasks": {
                "type": "array",
                "items": { "type": "string" },
                "default": [],
                "description": "Only of these tasks, instead of the run",
            },
            "cool_down": {
                "$ref": "#/$defs/duration",
                "default": pinwheel_tasks::duration::text(alerts::COOL_DOWN),
                "description": "What happens within this time after a message goes out as one, at its end",
            },
        },
    })
}

fn datasets(key: &str, description: &str) -> Value {
    json!({
        "type": "object",
        "required": [key],
        "additionalProperties": false,
        "properties": {
            key: { "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/datasets" }, "description": description },
        },
    })
}

fn param() -> Value {
    json!({
        "type": "object",
        "required": ["type"],
        "additionalProperties": false,
        "properties": {
            "type": { "enum": ParamType::ALL.map(ParamType::name), "description": "The type a value must have" },
            "default": { "description": "The value of a run that gives none; without it the param is required" },
            "description": { "type": "string", "description": "One sentence for people" },
            "minimum": { "type": "number", "description": "The smallest number allowed" },
            "maximum": { "type": "number", "description": "The largest number allowed" },
            "pattern": { "type": "string", "description": "A regular expression the whole text must match" },
            "enum": { "type": "array", "description": "The only values allowed" },
        },
    })
}

/// The keys that `[defaults]` and tasks share.
fn policy() -> Value {
    let default = Policy::default();
    json!({
        "trigger_rule": {
            "enum": TriggerRule::ALL.map(TriggerRule::as_str),
            "default": default.trigger_rule.as_str(),
            "description": "When the task runs, given what became of its upstream tasks",
        },
        "retries": {
            "type": "integer",
            "minimum": 0,
            "maximum": 1_000,
            "default": default.retries,
            "description": "Tries beyond the first",
        },
        "retry_delay": {
            "$ref": "#/$defs/duration",
            "default": pinwheel_tasks::duration::text(default.retry_delay),
            "description": "The pause before a retry",
        },
        "retry_factor": {
            "type": "number",
            "minimum": 1,
            "maximum": 100,
            "default": default.retry.factor,
            "description": "Each pause is so many times as long as the one before",
        },
        "retry_max_delay": {
            "$ref": "#/$defs/duration",
            "description": "No pause is longer; a day for pauses that grow, without it",
        },
        "retry_jitter": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "default": default.retry.jitter,
            "description": "Up to this share of a pause is left off, differently for every task instance and try",
        },
        "retry_on": {
            "type": "array",
            "minItems": 1,
            "items": { "$ref": "#/$defs/failure" },
            "description": "Only these failures are tried again",
        },
        "no_retry_on": {
            "type": "array",
            "items": { "$ref": "#/$defs/failure" },
            "description": "These failures are not tried again",
        },
        "timeout": { "$ref": "#/$defs/duration", "description": "The longest a try may run; no limit without it" },
        "queue_timeout": {
            "$ref": "#/$defs/duration",
            "description": "The longest it may be queued before it fails; no limit without it",
        },
        "pool": { "type": "string", "pattern": NAME, "default": default.pool, "description": "The pool whose slots it takes" },
        "queue": {
            "type": "string",
            "pattern": NAME,
            "default": default.queue,
            "description": "The queue a worker must serve to run it",
        },
        "priority": {
            "type": "integer",
            "minimum": i32::MIN,
            "maximum": i32::MAX,
            "default": default.priority,
            "description": "Higher is claimed first within a pool",
        },
        "slots": {
            "type": "integer",
            "minimum": 1,
            "maximum": 1_000,
            "default": default.slots,
            "description": "How many slots of the pool it takes",
        },
        "allow_failure": {
            "type": "boolean",
            "default": default.allow_failure,
            "description": "Its failure does not fail the run",
        },
        "concurrency_key": {
            "type": "string",
            "description": "Tasks with the same key, of whatever DAG and run, share a limit; a template over params, dates and ids",
        },
        "concurrency_limit": {
            "type": "integer",
            "minimum": 1,
            "maximum": 10_000,
            "default": default.concurrency_limit,
            "description": "How many tasks with the same concurrency key may be running at once",
        },
        "depends_on_previous": {
            "type": "boolean",
            "default": default.depends_on_previous,
            "description": "It waits until the same task of the run before has succeeded or was skipped",
        },
    })
}

fn task(registry: &Registry) -> Value {
    let kinds: Vec<Value> = registry
        .iter()
        .map(|kind| json!({ "const": kind.name(), "description": kind.summary() }))
        .collect();
    let mut properties = Map::new();
    properties.insert(
        "kind".to_owned(),
        json!({ "description": "What the task does", "oneOf": kinds }),
    );
    properties.insert(
        "after".to_owned(),
        json!({
            "type": "array",
            "items": { "type": "string" },
            "uniqueItems": true,
            "default": [],
            "description": "The tasks or groups directly upstream",
        }),
    );
    properties.insert(
        "outlets".to_owned(),
        json!({
            "type": "array",
            "items": { "$ref": "#/$defs/dataset" },
            "uniqueItems": true,
            "default": [],
            "description": "The datasets it updates when it succeeds",
        }),
    );
    properties.insert(
        "with".to_owned(),
        json!({ "type": "object", "description": "The kind's own settings" }),
    );
    for (key, schema) in flow() {
        properties.insert(key.to_owned(), schema);
    }
    if let Value::Object(policy) = policy() {
        properties.extend(policy);
    }
    let by_kind: Vec<Value> = registry.iter().map(|kind| by_kind(kind.as_ref())).collect();
    let mut task = json!({
        "type": "object",
        "required": ["kind"],
        "additionalProperties": false,
        "properties": properties,
    });
    // An empty `allOf` is no schema.
    if !by_kind.is_empty() {
        task["allOf"] = Value::Array(by_kind);
    }
    task
}

/// The keys that belong to a task and decide about it besides its trigger rule.
fn flow() -> [(&'static str, Value); 6] {
    [
        (
            "when",
            json!({
                "type": "string",
                "description": "An expression over params, dates and outputs; where it is false the task is skipped",
            }),
        ),
        (
            "setup",
            json!({
                "type": "boolean",
                "default": false,
                "description": "It prepares what the tasks below it need; they follow it when it fails or is skipped",
            }),
        ),
        (
            "teardown",
            json!({
                "type": "boolean",
                "default": false,
                "description": "It runs when its setup succeeded and the work between is done, whatever came of it",
            }),
        ),
        (
            "foreach",
            json!({
                "oneOf": [{ "type": "array" }, { "$ref": "#/$defs/template" }],
                "description": "A list, or a template that gives one: the task has one instance for each item",
            }),
        ),
        (
            "item_name",
            json!({
                "type": "string",
                "description": "What an item is called; a template that may read `item` and `item_index`",
            }),
        ),
        (
            "max_active_items",
            json!({
                "type": "integer",
                "minimum": 1,
                "maximum": 10_000,
                "description": "How many items of a run may be running at once; no limit without it",
            }),
        ),
    ]
}

fn by_kind(kind: &dyn Kind) -> Value {
    let required: Vec<&str> = kind
        .fields()
        .iter()
        .filter(|field| field.presence == Presence::Required)
        .map(|field| field.name)
        .collect();
    let properties: Map<String, Value> = kind
        .fields()
        .iter()
        .map(|field| (field.name.to_owned(), property(field)))
        .collect();
    let mut then = json!({
        "properties": {
            "with": {
                "type": "object",
                "description": kind.summary(),
                "required": required,
                "additionalProperties": false,
                "properties": properties,
            },
        },
    });
    if !required.is_empty() {
        then["required"] = json!(["with"]);
    }
    json!({ "if": { "properties": { "kind": { "const": kind.name() } }, "required": ["kind"] }, "then": then })
}

fn property(field: &Field) -> Value {
    let typed = match field.field_type {
        FieldType::Any => json!({}),
        FieldType::Text => json!({ "type": "string" }),
        FieldType::Verbatim => json!({ "type": "string", "not": { "pattern": r"\{\{" } }),
        FieldType::VerbatimList => {
            json!({ "type": "array", "items": { "type": "string", "not": { "pattern": r"\{\{" } } })
        }
        FieldType::Integer => or_template(json!({ "type": "integer" })),
        FieldType::Number => or_template(json!({ "type": "number" })),
        FieldType::Boolean => or_template(json!({ "type": "boolean" })),
        FieldType::Duration => or_template(json!({ "$ref": "#/$defs/duration" })),
        FieldType::TextList => {
            or_template(json!({ "type": "array", "items": { "type": "string" } }))
        }
        FieldType::TextTable => {
            or_template(json!({ "type": "object", "additionalProperties": { "type": "string" } }))
        }
    };
    let mut property = typed;
    property["description"] = match field.presence {
        Presence::Required => json!(field.doc),
        Presence::Optional { default } => json!(format!("{} (default: {default})", field.doc)),
    };
    property
}

fn or_template(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "$ref": "#/$defs/template" }] })
}
