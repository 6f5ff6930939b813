//! What a posted pin must look like: the eleven fields and their types. Pure; the bytes stay as they came.
//!
//! Only names and JSON types are checked here. Whether a value makes sense (a count that is no number, a placeholder)
//! is the dataset's business, downstream, where nothing is lost.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, json};

/// One thing that is wrong with a posted body, in the shape that FastAPI answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wrong {
    /// The kind of the error, for programs: `missing`, `string_type`, `int_type`, `json_invalid` …
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Where: `["body", "index"]`, or `["body", 17]` for a byte of the body.
    pub loc: Vec<Value>,
    /// What was expected, for people.
    pub msg: String,
    /// More about a JSON error: the parser's words, line and column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ctx: Option<Value>,
}

/// The field whose value is the message's key.
pub const KEY_FIELD: &str = "unique_id";

#[derive(Clone, Copy, PartialEq)]
enum Expected {
    Text,
    Integer,
}

#[derive(Clone, Copy, PartialEq)]
enum Presence {
    Required,
    /// May be missing, or null: rows of the scraper without media have neither field.
    Optional,
}

const FIELDS: [(&str, Expected, Presence); 11] = [
    ("category", Expected::Text, Presence::Required),
    ("index", Expected::Integer, Presence::Required),
    (KEY_FIELD, Expected::Text, Presence::Required),
    ("title", Expected::Text, Presence::Required),
    ("description", Expected::Text, Presence::Required),
    ("follower_count", Expected::Text, Presence::Required),
    ("tag_list", Expected::Text, Presence::Required),
    ("is_image_or_video", Expected::Text, Presence::Optional),
    ("image_src", Expected::Text, Presence::Optional),
    ("downloaded", Expected::Integer, Presence::Required),
    ("save_location", Expected::Text, Presence::Required),
];

/// Checks a posted pin and returns its key.
///
/// # Errors
///
/// Everything that is wrong with it, in the order of the fields.
pub fn check(body: &[u8]) -> Result<String, Vec<Wrong>> {
    let text = std::str::from_utf8(body).map_err(|error| vec![not_utf8(error.valid_up_to())])?;
    let seen: Seen = serde_json::from_str(text).map_err(|error| vec![not_json(text, &error)])?;
    let Seen::Object { shapes, key, twice } = seen else {
        return Err(vec![Wrong {
            kind: "model_attributes_type",
            loc: vec![json!("body")],
            msg: "Input should be a JSON object with the fields of a pin".to_owned(),
            ctx: None,
        }]);
    };
    let mut wrong: Vec<Wrong> = twice
        .into_iter()
        .map(|name| Wrong {
            kind: "duplicate_field",
            loc: vec![json!("body"), json!(name)],
            msg: "Field comes twice".to_owned(),
            ctx: None,
        })
        .collect();
    for ((name, expected, presence), shape) in FIELDS.into_iter().zip(shapes) {
        let fits = match (expected, shape) {
            (_, None) | (_, Some(Shape::Null)) if presence == Presence::Optional => true,
            (_, None) => {
                wrong.push(Wrong {
                    kind: "missing",
                    loc: vec![json!("body"), json!(name)],
                    msg: "Field required".to_owned(),
                    ctx: None,
                });
                continue;
            }
            (Expected::Text, Some(shape)) => shape == Shape::Text,
            (Expected::Integer, Some(shape)) => shape == Shape::Integer,
        };
        if !fits {
            let found = shape.map_or("nothing", Shape::name);
            let (kind, what) = match expected {
                Expected::Text => ("string_type", "string"),
                Expected::Integer => ("int_type", "integer"),
            };
            wrong.push(Wrong {
                kind,
                loc: vec![json!("body"), json!(name)],
                msg: format!("Input should be a valid {what}, found {found}"),
                ctx: None,
            });
        }
    }
    match key {
        Some(key) if wrong.is_empty() => Ok(key),
        _ => Err(wrong),
    }
}

fn not_utf8(position: usize) -> Wrong {
    Wrong {
        kind: "json_invalid",
        loc: vec![json!("body"), json!(position)],
        msg: format!("The body is not UTF-8 from byte {position} on"),
        ctx: None,
    }
}

/// Describes a body that is not JSON, with line, column and byte.
pub(super) fn not_json(text: &str, error: &serde_json::Error) -> Wrong {
    let before: usize = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum();
    let position = (before + error.column().saturating_sub(1)).min(text.len());
    Wrong {
        kind: "json_invalid",
        loc: vec![json!("body"), json!(position)],
        msg: format!("The body is not valid JSON: {error}"),
        ctx: Some(
            json!({"error": error.to_string(), "line": error.line(), "column": error.column()}),
        ),
    }
}

/// A JSON value reduced to its type: nothing is allocated for what is only checked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Null,
    Boolean,
    Integer,
    Number,
    Text,
    List,
    Object,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Integer => "an integer",
            Self::Number => "a number that is no 64-bit integer",
            Self::Text => "a string",
            Self::List => "a list",
            Self::Object => "an object",
        }
    }
}

enum Seen {
    Object {
        shapes: [Option<Shape>; FIELDS.len()],
        key: Option<String>,
        /// Fields that come twice: which value counts would depend on the reader.
        twice: Vec<&'static str>,
    },
    Other,
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Seen;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON value")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Seen, A::Error> {
                let mut shapes = [None; FIELDS.len()];
                let mut key = None;
                let mut twice = Vec::new();
                while let Some(name) = map.next_key::<Name<'de>>()? {
                    let Some(position) = FIELDS.iter().position(|(field, ..)| *field == name.0)
                    else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let probe = if FIELDS[position].0 == KEY_FIELD {
                        key = None;
                        Probe::Key(&mut key)
                    } else {
                        Probe::Other
                    };
                    let shape = map.next_value_seed(probe)?;
                    if shapes[position].replace(shape).is_some() {
                        twice.push(FIELDS[position].0);
                    }
                }
                Ok(Seen::Object { shapes, key, twice })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Seen, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Seen::Other)
            }
            fn visit_unit<E>(self) -> Result<Seen, E> {
                Ok(Seen::Other)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Seen, E> {
                Ok(Seen::Other)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Seen, E> {
                Ok(Seen::Other)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Seen, E> {
                Ok(Seen::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Seen, E> {
                Ok(Seen::Other)
            }
            fn visit_str<E>(self, _: &str) -> Result<Seen, E> {
                Ok(Seen::Other)
            }
        }
        deserializer.deserialize_any(Whole)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Looks at a value for its type. Only the key's text is kept: copies of all texts were most of the work of a check.
enum Probe<'k> {
    Key(&'k mut Option<String>),
    Other,
}

impl<'de> DeserializeSeed<'de> for Probe<'_> {
    type Value = Shape;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Probe<'_> {
    type Value = Shape;
    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Boolean)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Integer)
    }
    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        Ok(if i64::try_from(value).is_ok() {
            Shape::Integer
        } else {
            Shape::Number
        })
    }
    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Number)
    }
    fn visit_str<E>(self, value: &str) -> Result<Shape, E> {
        if let Self::Key(key) = self {
            *key = Some(value.to_owned());
        }
        Ok(Shape::Text)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Shape::List)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Shape::Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin() -> serde_json::Map<String, Value> {
        let line = include_str!("../../../data/pins.ndjson")
            .lines()
            .next()
            .expect("the file has lines");
        serde_json::from_str(line).expect("the file is NDJSON")
    }

    fn check_value(value: &impl Serialize) -> Result<String, Vec<Wrong>> {
        check(&serde_json::to_vec(value).expect("serialises"))
    }

    #[test]
    fn every_real_pin_passes() {
        for line in include_str!("../../../data/pins.ndjson").lines() {
            let value: Value = serde_json::from_str(line).expect("the file is NDJSON");
            assert_eq!(
                check(line.as_bytes()).expect("a real pin"),
                value["unique_id"]
            );
        }
    }

    #[test]
    fn media_fields_may_be_missing_and_others_pass_through() {
        let mut pin = pin();
        pin.remove("is_image_or_video");
        pin.insert("image_src".to_owned(), Value::Null);
        pin.insert("poster_name".to_owned(), json!("User Info Error"));
        pin.insert("more".to_owned(), json!({"a": [1, 2]}));
        assert!(check_value(&pin).is_ok());
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let mut pin = pin();
        pin.insert("index".to_owned(), json!("7528"));
        pin.insert("downloaded".to_owned(), json!(0.5));
        pin.insert("title".to_owned(), json!(["a"]));
        pin.insert("unique_id".to_owned(), Value::Null);
        pin.remove("category");
        let wrong = check_value(&pin).expect_err("five fields are wrong");
        let named: Vec<_> = wrong
            .iter()
            .map(|wrong| (wrong.loc[1].as_str().unwrap_or_default(), wrong.kind))
            .collect();
        assert_eq!(
            named,
            [
                ("category", "missing"),
                ("index", "int_type"),
                ("unique_id", "string_type"),
                ("title", "string_type"),
                ("downloaded", "int_type")
            ]
        );
        assert_eq!(
            wrong[1].msg,
            "Input should be a valid integer, found a string"
        );
    }

    #[test]
    fn an_integer_beyond_64_bits_is_refused() {
        let text = serde_json::to_string(&pin())
            .expect("serialises")
            .replace("7528", "9223372036854775808");
        assert_eq!(
            check(text.as_bytes()).expect_err("too large")[0].loc[1],
            "index"
        );
    }

    #[test]
    fn broken_json_names_line_and_column() {
        let wrong = check(b"{\n  \"index\": 1,\n  oops\n}").expect_err("broken");
        assert_eq!(wrong[0].kind, "json_invalid");
        assert_eq!(wrong[0].ctx.as_ref().expect("context")["line"], 3);
        assert_eq!(wrong[0].ctx.as_ref().expect("context")["column"], 3);
        assert_eq!(wrong[0].loc[1], 18);
        assert!(wrong[0].msg.contains("line 3 column 3"), "{}", wrong[0].msg);
    }

    #[test]
    fn what_is_no_object_or_no_text_is_refused() {
        for body in [&b"[]"[..], b"1", b"\"a\"", b"null", b"true", b"1.5", b"-1"] {
            assert_eq!(
                check(body).expect_err("no object")[0].loc,
                vec![json!("body")]
            );
        }
        assert_eq!(check(b"").expect_err("empty")[0].kind, "json_invalid");
        assert_eq!(check(b"{} {}").expect_err("two")[0].kind, "json_invalid");
        assert_eq!(
            check(b"{\"a\": \"\xff\"}").expect_err("not UTF-8")[0].loc[1],
            7
        );
        assert_eq!(check(b"{}").expect_err("all missing").len(), 9);
    }

    #[test]
    fn a_field_that_comes_twice_is_refused() {
        let text = serde_json::to_string(&pin())
            .expect("serialises")
            .replace("\"index\":", "\"index\":1,\"index\":");
        let wrong = check(text.as_bytes()).expect_err("twice");
        assert_eq!(
            (wrong[0].kind, &wrong[0].loc[1]),
            ("duplicate_field", &json!("index"))
        );
    }
}
