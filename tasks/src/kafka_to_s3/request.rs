//! The `with` table of `kafka_to_s3`, parsed once.

use serde_json::{Map, Value};

use crate::{
    Failure, Field, FieldType, Presence, Problem,
    landing::{ChunkLimits, WhenDeleted},
};

/// Every key of the table.
pub(super) const FIELDS: &[Field] = &[
    Field {
        name: "topic",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "The Kafka topic.",
    },
    Field {
        name: "bucket",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "The S3 bucket; it must exist.",
    },
    Field {
        name: "prefix",
        field_type: FieldType::Text,
        presence: Presence::Optional {
            default: "raw/<topic>",
        },
        doc: "What every key begins with. Topic, bucket and prefix together name the cursor: another prefix lands the topic anew.",
    },
    Field {
        name: "max_records",
        field_type: FieldType::Integer,
        presence: Presence::Optional {
            default: "no limit",
        },
        doc: "At most this many offsets in one run; the next run goes on.",
    },
    Field {
        name: "max_chunk_bytes",
        field_type: FieldType::Integer,
        presence: Presence::Optional {
            default: "33554432",
        },
        doc: "An object is closed by the record that reaches this many bytes of keys, values and headers.",
    },
    Field {
        name: "max_chunk_records",
        field_type: FieldType::Integer,
        presence: Presence::Optional { default: "250000" },
        doc: "An object is closed by the record that reaches this count.",
    },
    Field {
        name: "when_deleted",
        field_type: FieldType::Text,
        presence: Presence::Optional { default: "fail" },
        doc: "When retention deleted records before they were landed: `fail`, or `continue` at the earliest record that is left.",
    },
];

/// What the task was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) topic: String,
    pub(super) bucket: String,
    pub(super) prefix: String,
    pub(super) max_records: Option<u64>,
    pub(super) chunk: ChunkLimits,
    pub(super) when_deleted: WhenDeleted,
}

impl Request {
    /// Reads a rendered table.
    pub(super) fn parse(with: &Map<String, Value>) -> Result<Self, Failure> {
        if let Some(problem) = check(with).into_iter().next() {
            let failure = Failure::permanent(problem.message);
            return Err(match problem.hint {
                Some(hint) => failure.with_hint(hint),
                None => failure,
            });
        }
        let text = |name: &str| with.get(name).and_then(Value::as_str).map(str::to_owned);
        let required = |name: &str| {
            text(name).ok_or_else(|| Failure::permanent(format!("`{name}` is missing")))
        };
        let topic = required("topic")?;
        let defaults = ChunkLimits::default();
        Ok(Self {
            bucket: required("bucket")?,
            prefix: text("prefix")
                .unwrap_or_else(|| format!("raw/{topic}"))
                .trim_matches('/')
                .to_owned(),
            max_records: number(with, "max_records"),
            chunk: ChunkLimits {
                bytes: number(with, "max_chunk_bytes").unwrap_or(defaults.bytes),
                records: number(with, "max_chunk_records").unwrap_or(defaults.records),
            },
            when_deleted: match text("when_deleted").as_deref() {
                Some("continue") => WhenDeleted::Continue,
                _ => WhenDeleted::Fail,
            },
            topic,
        })
    }
}

/// What is wrong with the values of a table, as far as they hold no template.
pub(super) fn check(with: &Map<String, Value>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut refuse = |field: &str, message: String, hint: &str| {
        problems.push(Problem {
            field: Some(field.to_owned()),
            message,
            hint: Some(hint.to_owned()),
        });
    };
    for name in ["max_records", "max_chunk_bytes", "max_chunk_records"] {
        if with.get(name).is_some_and(|value| !is_template(value)) && number(with, name).is_none() {
            refuse(
                name,
                format!(
                    "`{name}` must be a whole number above 0, found {}",
                    with[name]
                ),
                "leave it out for the default",
            );
        }
    }
    let plain = |name: &str| {
        with.get(name)
            .filter(|value| !is_template(value))
            .and_then(Value::as_str)
    };
    if let Some(topic) = plain("topic") {
        let legal =
            |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
        if topic.is_empty() || topic.len() > 249 || !topic.chars().all(legal) {
            refuse(
                "topic",
                format!("`{topic}` is no Kafka topic"),
                "letters, digits, `.`, `_` and `-`, at most 249",
            );
        }
    }
    if let Some(bucket) = plain("bucket")
        && (bucket.is_empty() || bucket.contains('/'))
    {
        refuse(
            "bucket",
            format!("`{bucket}` is no bucket"),
            "the name alone, without `s3://` and without a path",
        );
    }
    if let Some(word) = plain("when_deleted")
        && !matches!(word, "fail" | "continue")
    {
        refuse(
            "when_deleted",
            format!("expected `fail` or `continue`, found `{word}`"),
            "`fail` is the default",
        );
    }
    problems
}

/// A whole number above 0; a template may have rendered it as text.
fn number(with: &Map<String, Value>, name: &str) -> Option<u64> {
    let value = with.get(name)?;
    let number = value
        .as_u64()
        .or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()))?;
    (number > 0).then_some(number)
}

fn is_template(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.contains("{{"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table(value: &Value) -> Map<String, Value> {
        value.as_object().expect("a table").clone()
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let request = Request::parse(&table(&json!({ "topic": "pins", "bucket": "lake" })))
            .expect("it is complete");
        assert_eq!(
            request,
            Request {
                topic: "pins".to_owned(),
                bucket: "lake".to_owned(),
                prefix: "raw/pins".to_owned(),
                max_records: None,
                chunk: ChunkLimits::default(),
                when_deleted: WhenDeleted::Fail,
            }
        );
    }

    #[test]
    fn a_wrong_value_is_found_before_the_task_runs_unless_it_is_a_template() {
        let wrong = json!({
            "topic": "pins/today", "bucket": "s3://lake", "max_records": 0, "max_chunk_bytes": "{{ params.bytes }}",
            "when_deleted": "ignore",
        });
        let fields: Vec<_> = check(&table(&wrong))
            .into_iter()
            .filter_map(|problem| problem.field)
            .collect();
        assert_eq!(fields, ["max_records", "topic", "bucket", "when_deleted"]);
    }

    #[test]
    fn a_number_that_a_template_rendered_as_text_is_a_number() {
        let with = table(
            &json!({ "topic": "pins", "bucket": "lake", "max_records": "50", "prefix": "/raw/" }),
        );
        let request = Request::parse(&with).expect("it is complete");
        assert_eq!(
            (request.max_records, request.prefix.as_str()),
            (Some(50), "raw")
        );
    }
}
