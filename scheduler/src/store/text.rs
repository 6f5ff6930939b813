//! Postgres stores no NUL character, neither in text nor in JSON; what tasks say may hold one.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// The text with every NUL replaced by U+FFFD.
pub(super) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// The value with every NUL in it replaced by U+FFFD.
pub(super) fn storable_value(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(storable(text).into_owned()),
        Value::Array(items) => Value::Array(items.iter().map(storable_value).collect()),
        Value::Object(entries) => Value::Object(
            entries
                .iter()
                .map(|(key, value)| (storable(key).into_owned(), storable_value(value)))
                .collect::<Map<_, _>>(),
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::storable_value;

    #[test]
    fn a_nul_anywhere_in_a_value_is_replaced() {
        assert_eq!(
            storable_value(&json!({"a\u{0}": ["b\u{0}c", 1, null]})),
            json!({"a\u{fffd}": ["b\u{fffd}c", 1, null]})
        );
    }
}
