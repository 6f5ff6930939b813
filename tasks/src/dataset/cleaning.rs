//! From one message to one row. The first pass reads and checks the shape (what fails is dead-lettered), the second parses the
//! values by the contract (what fails is quarantined).

use std::borrow::Cow;

use serde_json::Value;

use super::message::{self, Found, Unreadable};
use super::{
    Cell, Dataset, FieldRule, FieldType, Fired, FiredKind, Function, Nulls, Presence, Rejected,
    Row, Stage, timestamp, values,
};

/// A key longer than this cannot be indexed everywhere (Postgres refuses index rows of a third of a page).
const MAX_KEY_BYTES: usize = 512;

/// So much of a value is shown in the detail of a rejection.
const SHOWN_CHARACTERS: usize = 80;

pub(super) fn clean(dataset: &Dataset, message: Option<&[u8]>) -> Result<Row, Rejected> {
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

    let mut row = Row {
        values: Vec::with_capacity(dataset.columns.len()),
        fired: Vec::new(),
    };
    for (position, found) in read.fields.into_iter().enumerate() {
        let cell = parse(dataset, position, found, &mut row.fired)?;
        row.values.push(cell);
    }
    for rule in &dataset.derived {
        let cell = derive(rule.function, &row.values[rule.from]);
        row.values.push(cell);
    }
    row.values.push(extra(dataset, read.extra, &mut row.fired)?);
    Ok(row)
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
        | FieldType::Uuid => "a string",
        FieldType::Timestamp { .. } => "a string",
        FieldType::Integer => "an integer",
        FieldType::Float => "a number",
        FieldType::Boolean => "a boolean, 0 or 1",
    };
    let fits = match (found, &rule.field_type) {
        (Found::Missing, _) => {
            if rule.presence == Presence::Optional {
                return Ok(());
            }
            let detail = format!(
                "expected {wanted} in field `{}`, found no such field",
                rule.source
            );
            return Err(rejected(
                dataset,
                Stage::Unreadable,
                "missing_field",
                position,
                detail,
            ));
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

fn parse(
    dataset: &Dataset,
    position: usize,
    found: Found<'_>,
    fired: &mut Vec<Fired>,
) -> Result<Cell, Rejected> {
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
            Cell::Null
        }
        Found::Null => Cell::Null,
        Found::Boolean(value) => Cell::Boolean(value),
        Found::Integer(value) => integer(dataset, position, rule, value)?,
        Found::Text(text) if text.is_empty() => {
            fire(FiredKind::Empty);
            Cell::Null
        }
        Found::Text(text) if rule.placeholders.matches(&text) => {
            fire(FiredKind::Placeholder);
            Cell::Null
        }
        Found::Text(text) => {
            let cell = parse_text(dataset, position, rule, text)?;
            if cell == Cell::Null {
                fire(FiredKind::Empty);
            }
            cell
        }
        Found::Number(value) => Cell::Float(value),
        Found::List | Found::Object => Cell::Null,
    };
    if cell == Cell::Null && rule.nulls == Nulls::Refused {
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
) -> Result<Cell, Rejected> {
    match (&rule.field_type, value) {
        (FieldType::Boolean, 0) => Ok(Cell::Boolean(false)),
        (FieldType::Boolean, 1) => Ok(Cell::Boolean(true)),
        (FieldType::Boolean, _) => Err(rejected(
            dataset,
            Stage::Contract,
            "boolean",
            position,
            format!("expected 0 or 1, found {value}"),
        )),
        (FieldType::Float, _) => Ok(Cell::Float(value as f64)),
        _ => Ok(Cell::Integer(value)),
    }
}

fn parse_text(
    dataset: &Dataset,
    position: usize,
    rule: &FieldRule,
    text: Cow<'_, str>,
) -> Result<Cell, Rejected> {
    let refuse = |name: &str, detail: String| {
        Err(rejected(dataset, Stage::Contract, name, position, detail))
    };
    let text = match &rule.strip_prefix {
        Some(prefix) if text.starts_with(prefix.as_str()) => {
            Cow::Owned(text[prefix.len()..].to_owned())
        }
        _ => text,
    };
    if text.is_empty() {
        return Ok(Cell::Null);
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
            Ok(Cell::Text(text.into_owned()))
        }
        FieldType::Count => match values::count(&text) {
            Some(count) => Ok(Cell::Integer(count)),
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
                Some(micros) => Ok(Cell::Timestamp(micros)),
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
            let tags = values::tags(&text, separator);
            Ok(if tags.is_empty() {
                Cell::Null
            } else {
                Cell::TextList(tags)
            })
        }
        FieldType::Enum { values, aliases } => {
            if values.iter().any(|value| *value == text) {
                return Ok(Cell::Text(text.into_owned()));
            }
            match aliases.get(text.as_ref()) {
                Some(value) => Ok(Cell::Text(values[*value].clone())),
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
                return Ok(Cell::Text(text.into_owned()));
            }
            refuse(
                "url",
                format!(
                    "expected an http or https address, found `{}`",
                    shown(&text)
                ),
            )
        }
        FieldType::Uuid => match values::uuid(&text) {
            Some(uuid) => Ok(Cell::Text(uuid)),
            None => refuse("uuid", format!("expected a UUID, found `{}`", shown(&text))),
        },
    }
}

fn derive(function: Function, from: &Cell) -> Cell {
    match (function, from) {
        (Function::Length, Cell::Text(text)) => Cell::Integer(text.chars().count() as i64),
        (Function::Length, Cell::TextList(list)) => Cell::Integer(list.len() as i64),
        (Function::Host, Cell::Text(text)) => {
            values::host(text).map_or(Cell::Null, |host| Cell::Text(host.to_ascii_lowercase()))
        }
        (Function::Lowercase, Cell::Text(text)) => Cell::Text(text.to_lowercase()),
        (Function::Year, Cell::Timestamp(micros)) => {
            timestamp::year(*micros).map_or(Cell::Null, Cell::Integer)
        }
        // The definition was checked: only null is left.
        (Function::Length | Function::Host | Function::Lowercase | Function::Year, _) => Cell::Null,
    }
}

fn extra(
    dataset: &Dataset,
    fields: serde_json::Map<String, Value>,
    fired: &mut Vec<Fired>,
) -> Result<Cell, Rejected> {
    if fields.is_empty() {
        return Ok(Cell::Null);
    }
    let position = dataset.columns.len() - 1;
    let value = Value::Object(fields);
    if contains_nul(&value) {
        let detail = "an extra field contains NUL, which databases refuse".to_owned();
        return Err(rejected(dataset, Stage::Contract, "nul", position, detail));
    }
    fired.push(Fired {
        kind: FiredKind::Extra,
        column: u16::try_from(position).unwrap_or(u16::MAX),
    });
    Ok(Cell::Json(value.to_string()))
}

/// The recursion is bounded by the parser's own bound on nesting.
fn contains_nul(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => text.contains('\0'),
        Value::Array(list) => list.iter().any(contains_nul),
        Value::Object(fields) => fields
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
