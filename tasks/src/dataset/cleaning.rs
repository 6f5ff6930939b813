//! From one message to one row. The first pass reads and checks the shape (what fails is dead-lettered), the second parses the
//! values by the contract (what fails is quarantined).

use std::borrow::Cow;

use serde_json::Value as JsonValue;

use super::message::{self, Found, Unreadable};
use super::{
    Cell, Dataset, FieldRule, FieldType, Fired, FiredKind, Function, Nulls, Presence, Rejected,
    Row, Severity, Stage, timestamp, values,
};

/// A key longer than this cannot be indexed everywhere (Postgres refuses index rows of a third of a page).
const MAX_KEY_BYTES: usize = 512;

/// So much of a value is shown in the detail of a rejection.
const SHOWN_CHARACTERS: usize = 80;

/// A clean row whose texts are borrowed from the message wherever they need no change.
#[derive(Debug)]
pub(crate) struct BorrowedRow<'m> {
    /// One value per column of the dataset, in its order.
    pub(crate) values: Vec<Value<'m>>,
    /// The rules that changed or marked a value.
    pub(crate) fired: Vec<Fired>,
    /// The names of fields that the contract does not know.
    pub(crate) unknown: Vec<String>,
}

/// One value of a borrowed row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'m> {
    Null,
    Text(Cow<'m, str>),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Timestamp(i64),
    Tags(Tags<'m>),
    Json(String),
}

/// Tags that are not split yet; at least one is not empty.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tags<'m> {
    text: Cow<'m, str>,
    separator: &'m str,
}

impl Tags<'_> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        values::tags(&self.text, self.separator)
    }
}

impl BorrowedRow<'_> {
    pub(super) fn into_row(self) -> Row {
        Row {
            values: self.values.into_iter().map(Value::into_cell).collect(),
            fired: self.fired,
        }
    }
}

impl Value<'_> {
    fn into_cell(self) -> Cell {
        match self {
            Self::Null => Cell::Null,
            Self::Text(text) => Cell::Text(text.into_owned()),
            Self::Integer(value) => Cell::Integer(value),
            Self::Float(value) => Cell::Float(value),
            Self::Boolean(value) => Cell::Boolean(value),
            Self::Timestamp(micros) => Cell::Timestamp(micros),
            Self::Tags(tags) => Cell::TextList(tags.iter().map(str::to_owned).collect()),
            Self::Json(text) => Cell::Json(text),
        }
    }
}

pub(super) fn clean<'m>(
    dataset: &'m Dataset,
    message: Option<&'m [u8]>,
) -> Result<BorrowedRow<'m>, Rejected> {
    let bytes = message.ok_or_else(|| unreadable("tombstone", "the message has no value"))?;
    if bytes.len() > dataset.max_message_bytes {
        let detail = format!(
            "the message has {} bytes, at most {} are read",
            bytes.len(),
            dataset.max_message_bytes
        );
        return Err(unreadable("too_large", detail));
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(unreadable("empty", "the message is empty"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        unreadable(
            "not_utf8",
            format!("byte {} is not UTF-8", error.valid_up_to()),
        )
    })?;
    let read = message::read(&dataset.fields, text).map_err(|error| cannot_read(dataset, error))?;
    for (position, found) in read.fields.iter().enumerate() {
        check_shape(dataset, position, found)?;
    }

    let mut row = BorrowedRow {
        values: Vec::with_capacity(dataset.columns.len()),
        fired: Vec::new(),
        unknown: Vec::new(),
    };
    for (position, found) in read.fields.into_iter().enumerate() {
        let value = parse(dataset, position, found, &mut row.fired)?;
        row.values.push(value);
    }
    for rule in &dataset.derived {
        let value = derive(rule.function, &row.values[rule.from]);
        row.values.push(value);
    }
    expect(dataset, &mut row)?;
    row.unknown.extend(read.extra.keys().cloned());
    row.values.push(extra(dataset, read.extra, &mut row.fired)?);
    Ok(row)
}

/// Holds the row against the dataset's expectations. What may not pass is looked at first, in the order of the file.
fn expect(dataset: &Dataset, row: &mut BorrowedRow<'_>) -> Result<(), Rejected> {
    for (index, expectation) in dataset.expectations.iter().enumerate() {
        if expectation.holds(&row.values[expectation.column]) {
            continue;
        }
        match expectation.severity {
            Severity::Warn => row.fired.push(Fired {
                kind: FiredKind::Expectation,
                column: u16::try_from(index).unwrap_or(u16::MAX),
            }),
            Severity::Quarantine | Severity::Fail => {
                return Err(Rejected {
                    stage: Stage::Contract,
                    rule: expectation.rule(),
                    detail: format!(
                        "expected {}",
                        expectation.words(&dataset.columns[expectation.column].name)
                    ),
                    field: Some(dataset.columns[expectation.column].name.clone()),
                });
            }
        }
    }
    Ok(())
}

fn cannot_read(dataset: &Dataset, error: Unreadable) -> Rejected {
    match error {
        Unreadable::NotJson(detail) => unreadable("not_json", detail),
        Unreadable::NotAnObject => unreadable("not_an_object", "expected a JSON object"),
        Unreadable::NumberTooLarge => unreadable(
            "number_too_large",
            "a number is beyond the range of a 64-bit float",
        ),
        Unreadable::DuplicateField(Some(position)) => rejected(
            dataset,
            Stage::Unreadable,
            "duplicate_field",
            position,
            "the field comes twice".to_owned(),
        ),
        // The name is not in the rule: rules are counted, and names from the network are without bound.
        Unreadable::DuplicateField(None) => {
            unreadable("duplicate_field:extra", "a field comes twice")
        }
    }
}

fn check_shape(dataset: &Dataset, position: usize, found: &Found<'_>) -> Result<(), Rejected> {
    let rule = &dataset.fields[position];
    let wanted = match rule.field_type {
        FieldType::Text
        | FieldType::Count
        | FieldType::Tags { .. }
        | FieldType::Enum { .. }
        | FieldType::Url
        | FieldType::Uuid
        | FieldType::Timestamp { .. } => "a string",
        FieldType::Integer => "an integer",
        FieldType::Float => "a number",
        FieldType::Boolean => "a boolean, 0 or 1",
    };
    let fits = match (found, &rule.field_type) {
        (Found::Missing, _) => {
            let stage = match rule.presence {
                Presence::Optional => return Ok(()),
                Presence::Required => Stage::Unreadable,
                Presence::Quarantined => Stage::Contract,
            };
            let detail = format!(
                "expected {wanted} in field `{}`, found no such field",
                rule.source
            );
            return Err(rejected(dataset, stage, "missing_field", position, detail));
        }
        (Found::Null, _) => true,
        (Found::Integer(_), field_type) => {
            matches!(
                field_type,
                FieldType::Integer | FieldType::Float | FieldType::Boolean
            )
        }
        (Found::Number(_), FieldType::Float) => true,
        (Found::Boolean(_), field_type) => matches!(field_type, FieldType::Boolean),
        (Found::Text(_), field_type) => !matches!(
            field_type,
            FieldType::Integer | FieldType::Float | FieldType::Boolean
        ),
        (Found::Number(_) | Found::List | Found::Object, _) => false,
    };
    if fits {
        return Ok(());
    }
    let detail = format!(
        "expected {wanted} in field `{}`, found {}",
        rule.source,
        found.words()
    );
    Err(rejected(
        dataset,
        Stage::Unreadable,
        "wrong_type",
        position,
        detail,
    ))
}

fn parse<'m>(
    dataset: &'m Dataset,
    position: usize,
    found: Found<'m>,
    fired: &mut Vec<Fired>,
) -> Result<Value<'m>, Rejected> {
    let rule = &dataset.fields[position];
    let mut fire = |kind| {
        fired.push(Fired {
            kind,
            column: u16::try_from(position).unwrap_or(u16::MAX),
        })
    };
    let cell = match found {
        Found::Missing => {
            fire(FiredKind::Missing);
            Value::Null
        }
        Found::Null => Value::Null,
        Found::Boolean(value) => Value::Boolean(value),
        Found::Integer(value) => integer(dataset, position, rule, value)?,
        Found::Text(text) if text.is_empty() => {
            fire(FiredKind::Empty);
            Value::Null
        }
        Found::Text(text) if rule.placeholders.matches(&text) => {
            fire(FiredKind::Placeholder);
            Value::Null
        }
        Found::Text(text) => {
            let cell = parse_text(dataset, position, rule, text)?;
            if cell == Value::Null {
                fire(FiredKind::Empty);
            }
            cell
        }
        Found::Number(value) => Value::Float(value),
        Found::List | Found::Object => Value::Null,
    };
    if cell == Value::Null && rule.nulls == Nulls::Refused {
        let detail = format!(
            "column `{}` must have a value",
            dataset.columns[position].name
        );
        return Err(rejected(dataset, Stage::Contract, "null", position, detail));
    }
    Ok(cell)
}

fn integer(
    dataset: &Dataset,
    position: usize,
    rule: &FieldRule,
    value: i64,
) -> Result<Value<'static>, Rejected> {
    match (&rule.field_type, value) {
        (FieldType::Boolean, 0) => Ok(Value::Boolean(false)),
        (FieldType::Boolean, 1) => Ok(Value::Boolean(true)),
        (FieldType::Boolean, _) => Err(rejected(
            dataset,
            Stage::Contract,
            "boolean",
            position,
            format!("expected 0 or 1, found {value}"),
        )),
        (FieldType::Float, _) => Ok(Value::Float(value as f64)),
        _ => Ok(Value::Integer(value)),
    }
}

fn parse_text<'m>(
    dataset: &'m Dataset,
    position: usize,
    rule: &'m FieldRule,
    text: Cow<'m, str>,
) -> Result<Value<'m>, Rejected> {
    let refuse = |name: &str, detail: String| {
        Err(rejected(dataset, Stage::Contract, name, position, detail))
    };
    let text = match &rule.strip_prefix {
        Some(prefix) if text.starts_with(prefix.as_str()) => match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[prefix.len()..]),
            Cow::Owned(text) => Cow::Owned(text[prefix.len()..].to_owned()),
        },
        _ => text,
    };
    if text.is_empty() {
        return Ok(Value::Null);
    }
    if text.contains('\0') {
        return refuse(
            "nul",
            "the text contains NUL, which databases refuse".to_owned(),
        );
    }
    if position == dataset.key && text.len() > MAX_KEY_BYTES {
        return refuse(
            "key_too_long",
            format!(
                "a key has at most {MAX_KEY_BYTES} bytes, found {}",
                text.len()
            ),
        );
    }
    match &rule.field_type {
        FieldType::Text | FieldType::Integer | FieldType::Float | FieldType::Boolean => {
            Ok(Value::Text(text))
        }
        FieldType::Count => match values::count(&text) {
            Some(count) => Ok(Value::Integer(count)),
            None => refuse(
                "count",
                format!(
                    "expected a count such as `437`, `124k` or `1.2M`, found `{}`",
                    shown(&text)
                ),
            ),
        },
        FieldType::Timestamp { formats } => {
            match formats.iter().find_map(|format| format.read(&text)) {
                Some(micros) => Ok(Value::Timestamp(micros)),
                None => refuse(
                    "timestamp",
                    format!(
                        "expected a timestamp such as {}, found `{}`",
                        formats
                            .iter()
                            .map(|format| format!("`{}`", format.as_str()))
                            .collect::<Vec<_>>()
                            .join(" or "),
                        shown(&text)
                    ),
                ),
            }
        }
        FieldType::Tags { separator } => {
            let tags = Tags { text, separator };
            Ok(if tags.iter().next().is_none() {
                Value::Null
            } else {
                Value::Tags(tags)
            })
        }
        FieldType::Enum { values, aliases } => {
            if values.iter().any(|value| *value == text) {
                return Ok(Value::Text(text));
            }
            match aliases.get(text.as_ref()) {
                Some(value) => Ok(Value::Text(Cow::Borrowed(&values[*value]))),
                None => refuse(
                    "enum",
                    format!(
                        "expected one of {}, found `{}`",
                        values.join(", "),
                        shown(&text)
                    ),
                ),
            }
        }
        FieldType::Url => {
            if values::is_url(&text) {
                return Ok(Value::Text(text));
            }
            refuse(
                "url",
                format!(
                    "expected an http or https address, found `{}`",
                    shown(&text)
                ),
            )
        }
        FieldType::Uuid => {
            if values::is_uuid(&text) {
                Ok(Value::Text(values::lowercase(text)))
            } else {
                refuse("uuid", format!("expected a UUID, found `{}`", shown(&text)))
            }
        }
    }
}

fn derive<'m>(function: Function, from: &Value<'_>) -> Value<'m> {
    match (function, from) {
        (Function::Length, Value::Text(text)) => Value::Integer(text.chars().count() as i64),
        (Function::Length, Value::Tags(tags)) => Value::Integer(tags.iter().count() as i64),
        (Function::Host, Value::Text(text)) => values::host(text).map_or(Value::Null, |host| {
            Value::Text(Cow::Owned(host.to_ascii_lowercase()))
        }),
        (Function::Lowercase, Value::Text(text)) => Value::Text(Cow::Owned(text.to_lowercase())),
        (Function::Year, Value::Timestamp(micros)) => {
            timestamp::year(*micros).map_or(Value::Null, Value::Integer)
        }
        // The definition was checked: only null is left.
        (Function::Length | Function::Host | Function::Lowercase | Function::Year, _) => {
            Value::Null
        }
    }
}

fn extra(
    dataset: &Dataset,
    fields: serde_json::Map<String, JsonValue>,
    fired: &mut Vec<Fired>,
) -> Result<Value<'static>, Rejected> {
    if fields.is_empty() {
        return Ok(Value::Null);
    }
    let position = dataset.columns.len() - 1;
    let value = JsonValue::Object(fields);
    if contains_nul(&value) {
        let detail = "an extra field contains NUL, which databases refuse".to_owned();
        return Err(rejected(dataset, Stage::Contract, "nul", position, detail));
    }
    fired.push(Fired {
        kind: FiredKind::Extra,
        column: u16::try_from(position).unwrap_or(u16::MAX),
    });
    Ok(Value::Json(value.to_string()))
}

/// The recursion is bounded by the parser's own bound on nesting.
fn contains_nul(value: &JsonValue) -> bool {
    match value {
        JsonValue::Null | JsonValue::Bool(_) | JsonValue::Number(_) => false,
        JsonValue::String(text) => text.contains('\0'),
        JsonValue::Array(list) => list.iter().any(contains_nul),
        JsonValue::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.contains('\0') || contains_nul(value)),
    }
}

fn unreadable(rule: &str, detail: impl Into<String>) -> Rejected {
    Rejected {
        stage: Stage::Unreadable,
        rule: rule.to_owned(),
        detail: detail.into(),
        field: None,
    }
}

fn rejected(
    dataset: &Dataset,
    stage: Stage,
    rule: &str,
    position: usize,
    detail: String,
) -> Rejected {
    let field = dataset.columns[position].name.clone();
    Rejected {
        stage,
        rule: format!("{rule}:{field}"),
        detail,
        field: Some(field),
    }
}

/// A value shortened for a message, without control characters.
fn shown(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(SHOWN_CHARACTERS)
        .map(|character| {
            if character.is_control() {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect();
    if text.chars().nth(SHOWN_CHARACTERS).is_some() {
        short.push('…');
    }
    short
}
