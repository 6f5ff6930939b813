//! The `with` table of `kafka_to_s3`, parsed once.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::memory;
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
        name: "memory_mb",
        field_type: FieldType::Integer,
        presence: Presence::Optional { default: "256" },
        doc: "What the records under way may take in memory: read ahead, encoded, not yet written. Objects are the same whatever it is.",
    },
    Field {
        name: "until",
        field_type: FieldType::Text,
        presence: Presence::Optional {
            default: "the end of the topic",
        },
        doc: "A moment such as `{{ data_interval_end }}`: each partition is landed up to its first record whose timestamp is not before it.",
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
    pub(super) memory_mb: u64,
    pub(super) until: Option<DateTime<Utc>>,
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
        Ok(Self {
            bucket: required("bucket")?,
            prefix: text("prefix")
                .unwrap_or_else(|| format!("raw/{topic}"))
                .trim_matches('/')
                .to_owned(),
            max_records: number(with, "max_records"),
            chunk: limits(with),
            memory_mb: number(with, "memory_mb").unwrap_or(memory::DEFAULT_MB),
            until: text("until").as_deref().and_then(moment),
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
    if with
        .get("memory_mb")
        .is_none_or(|value| !is_template(value))
        && with
            .get("max_chunk_bytes")
            .is_none_or(|value| !is_template(value))
    {
        check_memory(with, &mut refuse);
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
    if let Some(text) = plain("until")
        && moment(text).is_none()
    {
        refuse(
            "until",
            format!("expected a moment such as `2026-01-01T00:00:00Z`, found `{text}`"),
            "`{{ data_interval_end }}` lands what belongs to the run's data interval and to those before it",
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

fn check_memory(with: &Map<String, Value>, refuse: &mut impl FnMut(&str, String, &str)) {
    let asked = match (with.get("memory_mb"), number(with, "memory_mb")) {
        (None, _) => memory::DEFAULT_MB,
        (Some(_), Some(asked)) if (memory::LEAST_MB..=memory::MOST_MB).contains(&asked) => asked,
        (Some(found), _) => {
            let (least, most) = (memory::LEAST_MB, memory::MOST_MB);
            return refuse(
                "memory_mb",
                format!("`memory_mb` must be from {least} to {most}, found {found}"),
                "leave it out for the default",
            );
        }
    };
    let needed = memory::least_mb(limits(with));
    if asked < needed {
        refuse(
            "memory_mb",
            format!(
                "objects of `max_chunk_bytes` = {} need a `memory_mb` of {needed} at least, it is {asked}",
                limits(with).bytes
            ),
            "make objects smaller, or `memory_mb` larger",
        );
    }
}

fn limits(with: &Map<String, Value>) -> ChunkLimits {
    let defaults = ChunkLimits::default();
    ChunkLimits {
        bytes: number(with, "max_chunk_bytes").unwrap_or(defaults.bytes),
        records: number(with, "max_chunk_records").unwrap_or(defaults.records),
    }
}

/// A moment in RFC 3339, as templates give it.
fn moment(text: &str) -> Option<DateTime<Utc>> {
    let moment = DateTime::parse_from_rfc3339(text.trim()).ok()?;
    Some(moment.with_timezone(&Utc))
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
                memory_mb: 256,
                until: None,
                when_deleted: WhenDeleted::Fail,
            }
        );
    }

    #[test]
    fn a_wrong_value_is_found_before_the_task_runs_unless_it_is_a_template() {
        let wrong = json!({
            "topic": "pins/today", "bucket": "s3://lake", "max_records": 0, "max_chunk_bytes": "{{ params.bytes }}",
            "memory_mb": 8, "until": "yesterday", "when_deleted": "ignore",
        });
        let fields: Vec<_> = check(&table(&wrong))
            .into_iter()
            .filter_map(|problem| problem.field)
            .collect();
        assert_eq!(
            fields,
            ["max_records", "topic", "bucket", "until", "when_deleted"]
        );
    }

    #[test]
    fn memory_that_does_not_hold_an_object_is_refused() {
        let messages = |with: &Value| -> Vec<String> {
            check(&table(with))
                .into_iter()
                .map(|problem| problem.message)
                .collect()
        };
        let with = |memory: Value, bytes: u64| json!({ "topic": "pins", "bucket": "lake", "memory_mb": memory, "max_chunk_bytes": bytes });
        assert_eq!(
            messages(&with(json!(8), 1_000)),
            ["`memory_mb` must be from 64 to 1048576, found 8"]
        );
        assert_eq!(
            messages(&with(json!(256), 300_000_000)),
            [
                "objects of `max_chunk_bytes` = 300000000 need a `memory_mb` of 337 at least, it is 256"
            ]
        );
        assert!(messages(&with(json!("337"), 300_000_000)).is_empty());
        assert!(messages(&with(json!("{{ params.mb }}"), 300_000_000)).is_empty());
        // What a template rendered is checked before the task runs.
        assert!(Request::parse(&table(&with(json!("336"), 300_000_000))).is_err());
    }

    #[test]
    fn a_moment_is_read_as_a_template_renders_it() {
        let with =
            json!({ "topic": "pins", "bucket": "lake", "until": "2026-01-01T02:00:00.5+01:00" });
        let request = Request::parse(&table(&with)).expect("it is complete");
        let until = request.until.expect("a moment");
        assert_eq!(until.to_rfc3339(), "2026-01-01T01:00:00.500+00:00");
        let template =
            json!({ "topic": "pins", "bucket": "lake", "until": "{{ data_interval_end }}" });
        assert!(check(&table(&template)).is_empty());
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
