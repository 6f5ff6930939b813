//! The JSON Schema of DAG files, so that editors complete and check them.

use pinwheel_tasks::{Field, FieldType, Kind, Presence, Registry};
use serde_json::{Map, Value, json};

use super::{header::MAX_ACTIVE_RUNS, policy::Policy};
use crate::model::{ParamType, TriggerRule};

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
            "tasks": {
                "type": "object",
                "description": "The tasks, by id",
                "minProperties": 1,
                "propertyNames": { "pattern": NAME },
                "additionalProperties": task(registry),
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
                "description": "A cron expression of 5 fields (6 with seconds first), a preset such as @daily, or an interval",
                "oneOf": [
                    { "type": "string" },
                    {
                        "type": "object",
                        "required": ["every"],
                        "additionalProperties": false,
                        "properties": { "every": { "$ref": "#/$defs/duration" } },
                    },
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
            "catchup": {
                "enum": ["none", "latest", "all"],
                "default": "none",
                "description": "What becomes of intervals that passed while nothing was watching",
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
            "timeout": {
                "$ref": "#/$defs/duration",
                "description": "The longest a run may take; then it fails, and what is unfinished is skipped",
            },
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
            "description": "The tasks directly upstream",
        }),
    );
    properties.insert(
        "with".to_owned(),
        json!({ "type": "object", "description": "The kind's own settings" }),
    );
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
