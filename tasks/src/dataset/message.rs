//! Reads one message as a JSON object: the fields of the contract by position, everything else as extra. Texts without escapes
//! are borrowed from the message.

use std::{borrow::Cow, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::FieldRule;

/// A message that is a JSON object.
pub(super) struct Message<'m> {
    /// One per field of the contract, in its order.
    pub(super) fields: Vec<Found<'m>>,
    /// Fields that the contract does not know, in the message's order.
    pub(super) extra: Map<String, Value>,
}

/// What a message holds for one field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found<'m> {
    Missing,
    Null,
    Boolean(bool),
    Integer(i64),
    /// A number with a fraction, or one beyond 64 bits.
    Number(f64),
    Text(Cow<'m, str>),
    List,
    Object,
}

impl Found<'_> {
    /// The JSON type in words.
    pub(super) fn words(&self) -> &'static str {
        match self {
            Self::Missing => "nothing",
            Self::Null => "null",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Number(_) => "a number that is no 64-bit integer",
            Self::Text(_) => "a string",
            Self::List => "a list",
            Self::Object => "an object",
        }
    }
}

/// Why a message is not a JSON object.
pub(super) enum Unreadable {
    NotJson(String),
    NotAnObject,
    NumberTooLarge,
    /// A field that comes twice: its position, or `None` for one that the contract does not know.
    DuplicateField(Option<usize>),
}

/// Reads a message. Nesting is bounded by the JSON parser (128 levels).
pub(super) fn read<'m>(fields: &[FieldRule], text: &'m str) -> Result<Message<'m>, Unreadable> {
    if !text
        .trim_start_matches([' ', '\t', '\r', '\n'])
        .starts_with('{')
    {
        return Err(match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Unreadable::NotAnObject,
            Err(error) => not_json(&error),
        });
    }
    let mut duplicate = None;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let reader = ObjectReader {
        fields,
        duplicate: &mut duplicate,
    };
    let read = deserializer
        .deserialize_map(reader)
        .and_then(|message| deserializer.end().map(|()| message));
    match (read, duplicate) {
        // Only a whole JSON text can have a field twice; anything else that is wrong is named first.
        (Ok(_), Some(field)) => Err(Unreadable::DuplicateField(field)),
        (Ok(message), None) => Ok(message),
        (Err(error), _) => Err(not_json(&error)),
    }
}

fn not_json(error: &serde_json::Error) -> Unreadable {
    let words = error.to_string();
    if words.starts_with("number out of range") {
        Unreadable::NumberTooLarge
    } else {
        Unreadable::NotJson(words)
    }
}

struct ObjectReader<'a> {
    fields: &'a [FieldRule],
    duplicate: &'a mut Option<Option<usize>>,
}

impl<'m> Visitor<'m> for ObjectReader<'_> {
    type Value = Message<'m>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'m>>(self, mut map: A) -> Result<Message<'m>, A::Error> {
        let mut message = Message {
            fields: vec![Found::Missing; self.fields.len()],
            extra: Map::new(),
        };
        let mut expected = 0;
        while let Some(name) = map.next_key_seed(NameReader {
            fields: self.fields,
            expected,
        })? {
            match name {
                Name::Field(position) => {
                    let found = map.next_value_seed(ValueReader)?;
                    if message.fields[position] != Found::Missing {
                        self.duplicate.get_or_insert(Some(position));
                    }
                    message.fields[position] = found;
                    expected = position + 1;
                }
                Name::Unknown(name) => {
                    let value: Value = map.next_value()?;
                    if message.extra.insert(name, value).is_some() {
                        self.duplicate.get_or_insert(None);
                    }
                }
            }
        }
        Ok(message)
    }
}

enum Name {
    Field(usize),
    Unknown(String),
}

/// Finds the field of a name. Producers write fields in one order, so the one after the last is tried first.
struct NameReader<'a> {
    fields: &'a [FieldRule],
    expected: usize,
}

impl<'m> DeserializeSeed<'m> for NameReader<'_> {
    type Value = Name;

    fn deserialize<D: Deserializer<'m>>(self, deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameReader<'_> {
    type Value = Name;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Name, E> {
        if self
            .fields
            .get(self.expected)
            .is_some_and(|field| field.source == name)
        {
            return Ok(Name::Field(self.expected));
        }
        let position = self.fields.iter().position(|field| field.source == name);
        Ok(position.map_or_else(|| Name::Unknown(name.to_owned()), Name::Field))
    }
}

struct ValueReader;

impl<'m> DeserializeSeed<'m> for ValueReader {
    type Value = Found<'m>;

    fn deserialize<D: Deserializer<'m>>(self, deserializer: D) -> Result<Found<'m>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'m> Visitor<'m> for ValueReader {
    type Value = Found<'m>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Found<'m>, E> {
        Ok(Found::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Found<'m>, E> {
        Ok(Found::Boolean(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Found<'m>, E> {
        Ok(Found::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Found<'m>, E> {
        Ok(i64::try_from(value).map_or(Found::Number(value as f64), Found::Integer))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Found<'m>, E> {
        Ok(Found::Number(value))
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'m str) -> Result<Found<'m>, E> {
        Ok(Found::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Found<'m>, E> {
        Ok(Found::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'m>>(self, mut list: A) -> Result<Found<'m>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::List)
    }

    fn visit_map<A: MapAccess<'m>>(self, mut map: A) -> Result<Found<'m>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Found::Object)
    }
}
