//! Typed reading of a spanned TOML table: every wrong type and unknown key is noted with its place, and reading goes on.

use std::{ops::Range, ops::RangeInclusive, time::Duration};

use pinwheel_tasks::duration;
use serde_json::Value;
use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use super::diagnostic::{Report, quoted, quoted_list};
use crate::model::is_name;

/// One table of the file.
#[derive(Clone)]
pub(super) struct Table<'t, 's> {
    /// What messages call it, such as ``task `land` ``.
    pub(super) called: String,
    /// Where something that is missing in it is reported.
    pub(super) place: Range<usize>,
    entries: &'t DeTable<'s>,
}

/// A text and where it stands, quotes included.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) span: Range<usize>,
}

/// A key with its value.
#[derive(Clone, Copy)]
pub(super) struct Entry<'t, 's> {
    pub(super) key: &'t Spanned<std::borrow::Cow<'s, str>>,
    pub(super) value: &'t Spanned<DeValue<'s>>,
}

impl<'t, 's> Table<'t, 's> {
    pub(super) fn new(
        called: impl Into<String>,
        place: Range<usize>,
        entries: &'t DeTable<'s>,
    ) -> Self {
        Self {
            called: called.into(),
            place,
            entries,
        }
    }

    /// The table `value` is, or a note that it is none.
    pub(super) fn of(
        called: impl Into<String>,
        place: Range<usize>,
        value: &'t Spanned<DeValue<'s>>,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let called = called.into();
        match value.get_ref() {
            DeValue::Table(entries) => Some(Self {
                called,
                place,
                entries,
            }),
            other => {
                wrong_type(report, value.span(), &called, "a table", other, None);
                None
            }
        }
    }

    /// The entries in the order of the file.
    pub(super) fn entries(&self) -> Vec<Entry<'t, 's>> {
        let mut entries: Vec<_> = self
            .entries
            .iter()
            .map(|(key, value)| Entry { key, value })
            .collect();
        entries.sort_by_key(|entry| entry.key.span().start);
        entries
    }

    pub(super) fn value(&self, key: &str) -> Option<&'t Spanned<DeValue<'s>>> {
        self.entries.get(key)
    }

    pub(super) fn key_span(&self, key: &str) -> Option<Range<usize>> {
        self.entries
            .keys()
            .find(|found| found.get_ref() == key)
            .map(Spanned::span)
    }

    /// Notes every key that is not in `known`.
    pub(super) fn deny_unknown(&self, known: &[&str], report: &mut Report<'_>) {
        for entry in self.entries() {
            let key = entry.key.get_ref();
            if !known.contains(&key.as_ref()) {
                let hint = report.guess(key, known.iter().copied(), || match known {
                    [] => Some(format!("{} takes no keys", self.called)),
                    _ => Some(format!(
                        "the keys of {} are {}",
                        self.called,
                        quoted_list(known.iter().copied())
                    )),
                });
                report.refuse(
                    entry.key.span(),
                    format!("unknown key {} in {}", quoted(key), self.called),
                    "not a key",
                    hint,
                );
            }
        }
    }

    /// The value of a key that must be there, or a note that it is missing.
    pub(super) fn require(
        &self,
        key: &str,
        example: &str,
        report: &mut Report<'_>,
    ) -> Option<&'t Spanned<DeValue<'s>>> {
        let value = self.value(key);
        if value.is_none() {
            report.refuse(
                self.place.clone(),
                format!("missing key `{key}` in {}", self.called),
                format!("`{key}` is required"),
                Some(format!("add `{example}`")),
            );
        }
        value
    }

    pub(super) fn text(&self, key: &str, report: &mut Report<'_>) -> Option<Text> {
        let value = self.value(key)?;
        text(value, &format!("`{key}`"), report)
    }

    /// A text that [`is_name`] accepts.
    pub(super) fn name(&self, key: &str, report: &mut Report<'_>) -> Option<Text> {
        let text = self.text(key, report)?;
        check_name(&text.text, text.span.clone(), key, report).then_some(text)
    }

    pub(super) fn integer(
        &self,
        key: &str,
        allowed: RangeInclusive<i64>,
        report: &mut Report<'_>,
    ) -> Option<i64> {
        let value = self.value(key)?;
        let DeValue::Integer(integer) = value.get_ref() else {
            let hint = matches!(value.get_ref(), DeValue::String(_))
                .then(|| "write it without quotes".to_owned());
            wrong_type(
                report,
                value.span(),
                &format!("`{key}`"),
                "a whole number",
                value.get_ref(),
                hint,
            );
            return None;
        };
        let found = whole_number(integer).filter(|number| allowed.contains(number));
        if found.is_none() {
            report.refuse(
                value.span(),
                format!(
                    "`{key}` must be from {} to {}, found {integer}",
                    allowed.start(),
                    allowed.end()
                ),
                "out of range",
                None,
            );
        }
        found
    }

    pub(super) fn boolean(&self, key: &str, report: &mut Report<'_>) -> Option<bool> {
        let value = self.value(key)?;
        if let DeValue::Boolean(boolean) = value.get_ref() {
            return Some(*boolean);
        }
        let hint = matches!(value.get_ref(), DeValue::String(_))
            .then(|| "write it without quotes".to_owned());
        wrong_type(
            report,
            value.span(),
            &format!("`{key}`"),
            "`true` or `false`",
            value.get_ref(),
            hint,
        );
        None
    }

    pub(super) fn duration(&self, key: &str, report: &mut Report<'_>) -> Option<Duration> {
        let value = self.value(key)?;
        check_duration(value, &format!("`{key}`"), report)
    }

    /// A duration that limits something: longer than nothing.
    pub(super) fn limit(&self, key: &str, report: &mut Report<'_>) -> Option<Duration> {
        let limit = self.duration(key, report)?;
        if limit.is_zero() {
            let span = self.value(key).map_or(self.place.clone(), Spanned::span);
            report.refuse(
                span,
                format!("`{key}` must be longer than nothing"),
                "",
                Some("leave it out for no limit".to_owned()),
            );
        }
        Some(limit)
    }

    /// A number, whole or not.
    pub(super) fn number(
        &self,
        key: &str,
        allowed: RangeInclusive<f64>,
        report: &mut Report<'_>,
    ) -> Option<f64> {
        let value = self.value(key)?;
        let found = match value.get_ref() {
            DeValue::Integer(_) | DeValue::Float(_) => json(value, report)?.as_f64()?,
            other => {
                wrong_type(
                    report,
                    value.span(),
                    &format!("`{key}`"),
                    "a number",
                    other,
                    None,
                );
                return None;
            }
        };
        if !allowed.contains(&found) {
            report.refuse(
                value.span(),
                format!(
                    "`{key}` must be {} to {}, found {found}",
                    allowed.start(),
                    allowed.end()
                ),
                "out of range",
                None,
            );
            return None;
        }
        Some(found)
    }

    /// The texts of a list, those that are texts.
    pub(super) fn texts(&self, key: &str, report: &mut Report<'_>) -> Vec<Text> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        match value.get_ref() {
            DeValue::Array(items) => items
                .iter()
                .filter_map(|item| text(item, &format!("an element of `{key}`"), report))
                .collect(),
            other => {
                let hint = match other {
                    DeValue::String(text) => Some(format!("write `{key} = [\"{text}\"]`")),
                    _ => None,
                };
                wrong_type(
                    report,
                    value.span(),
                    &format!("`{key}`"),
                    "a list of texts",
                    other,
                    hint,
                );
                Vec::new()
            }
        }
    }

    /// The values of a list.
    pub(super) fn list(&self, key: &str, report: &mut Report<'_>) -> &'t [Spanned<DeValue<'s>>] {
        let Some(value) = self.value(key) else {
            return &[];
        };
        match value.get_ref() {
            DeValue::Array(items) => items,
            other => {
                wrong_type(
                    report,
                    value.span(),
                    &format!("`{key}`"),
                    "a list",
                    other,
                    None,
                );
                &[]
            }
        }
    }
}

/// A text that is one of a few words.
pub(super) fn word<T: Copy>(
    table: &Table<'_, '_>,
    key: &str,
    words: &[(&str, T)],
    report: &mut Report<'_>,
) -> Option<T> {
    let value = table.value(key)?;
    if !matches!(value.get_ref(), DeValue::String(_)) {
        let known: Vec<String> = words
            .iter()
            .map(|(word, _)| format!("`\"{word}\"`"))
            .collect();
        let hint = format!("write {}", known.join(" or "));
        wrong_type(
            report,
            value.span(),
            &format!("`{key}`"),
            "text",
            value.get_ref(),
            Some(hint),
        );
        return None;
    }
    let found = table.text(key, report)?;
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == found.text) {
        return Some(*meaning);
    }
    let known = || words.iter().map(|(word, _)| *word);
    let hint = report.guess(&found.text, known(), || None);
    report.refuse(
        found.span,
        format!("unknown `{key}` {}", quoted(&found.text)),
        format!("expected one of {}", quoted_list(known())),
        hint,
    );
    None
}

/// Notes a value of the wrong type.
pub(super) fn wrong_type(
    report: &mut Report<'_>,
    span: Range<usize>,
    called: &str,
    expected: &str,
    found: &DeValue<'_>,
    hint: Option<String>,
) {
    report.refuse(
        span,
        format!("{called} must be {expected}, found {}", type_words(found)),
        format!("expected {expected}"),
        hint,
    );
}

/// What people call the type of a value.
pub(super) fn type_words(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "`true` or `false`",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

pub(super) fn text(
    value: &Spanned<DeValue<'_>>,
    called: &str,
    report: &mut Report<'_>,
) -> Option<Text> {
    match value.get_ref() {
        DeValue::String(text) => Some(Text {
            text: text.clone().into_owned(),
            span: value.span(),
        }),
        other => {
            let hint = match other {
                DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_) => Some("put it in quotes".to_owned()),
                DeValue::String(_) | DeValue::Array(_) | DeValue::Table(_) => None,
            };
            wrong_type(report, value.span(), called, "text", other, hint);
            None
        }
    }
}

/// Notes a text that cannot be a name.
pub(super) fn check_name(
    text: &str,
    span: Range<usize>,
    what: &str,
    report: &mut Report<'_>,
) -> bool {
    if is_name(text) {
        return true;
    }
    report.refuse(
        span,
        format!("{} cannot be a name ({what})", quoted(text)),
        "not a name",
        Some(
            "a name has 1 to 128 of the characters `A-Z a-z 0-9 _ . -` and begins with a letter, a digit or `_`"
                .to_owned(),
        ),
    );
    false
}

pub(super) fn check_duration(
    value: &Spanned<DeValue<'_>>,
    called: &str,
    report: &mut Report<'_>,
) -> Option<Duration> {
    let written = match value.get_ref() {
        DeValue::String(written) => written,
        other => {
            let hint = match other {
                DeValue::Integer(number) => {
                    format!("write a text with a unit, such as \"{number}s\"")
                }
                _ => "write a text with a unit, such as \"90s\" or \"15m\"".to_owned(),
            };
            wrong_type(
                report,
                value.span(),
                called,
                "a duration",
                other,
                Some(hint),
            );
            return None;
        }
    };
    duration::parse(written)
        .map_err(|error| {
            let label = "expected a duration such as \"90s\"";
            report.refuse(
                value.span(),
                format!("{called}: {}", error.message),
                label,
                Some(error.hint),
            );
        })
        .ok()
}

/// The number, where 64 bits hold it.
pub(super) fn whole_number(integer: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// The value as JSON, dates as text, tables in the order of the file. `None` after a note about a number that JSON
/// does not have.
pub(super) fn json(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Value> {
    match value.get_ref() {
        DeValue::String(text) => Some(Value::String(text.clone().into_owned())),
        DeValue::Integer(integer) => {
            let number = whole_number(integer);
            if number.is_none() {
                report.refuse(
                    value.span(),
                    "a whole number must fit in 64 bits",
                    "too large",
                    None,
                );
            }
            number.map(Value::from)
        }
        DeValue::Float(float) => {
            let number = float
                .as_str()
                .parse()
                .ok()
                .and_then(serde_json::Number::from_f64);
            if number.is_none() {
                report.refuse(
                    value.span(),
                    "`inf` and `nan` are no values here",
                    "not a finite number",
                    None,
                );
            }
            number.map(Value::Number)
        }
        DeValue::Boolean(boolean) => Some(Value::Bool(*boolean)),
        DeValue::Datetime(date) => Some(Value::String(date.to_string())),
        DeValue::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| json(item, report)).collect();
            items
                .into_iter()
                .collect::<Option<Vec<_>>>()
                .map(Value::Array)
        }
        DeValue::Table(entries) => {
            let entries = Table::new("", 0..0, entries).entries();
            let entries: Vec<_> = entries
                .into_iter()
                .map(|entry| {
                    Some((
                        entry.key.get_ref().clone().into_owned(),
                        json(entry.value, report)?,
                    ))
                })
                .collect();
            entries
                .into_iter()
                .collect::<Option<_>>()
                .map(Value::Object)
        }
    }
}

/// Notes texts and keys that Postgres could not store.
pub(super) fn refuse_nul(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) {
    let mut refuse = |span| {
        report.refuse(
            span,
            "a text must not contain the character NUL",
            "NUL here",
            None,
        )
    };
    match value.get_ref() {
        DeValue::String(text) if text.contains('\0') => refuse(value.span()),
        DeValue::Array(items) => items.iter().for_each(|item| refuse_nul(item, report)),
        DeValue::Table(entries) => refuse_nul_in(entries, report),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

/// As [`refuse_nul`], for a whole table.
pub(super) fn refuse_nul_in(entries: &DeTable<'_>, report: &mut Report<'_>) {
    for (key, value) in entries {
        if key.get_ref().contains('\0') {
            report.refuse(
                key.span(),
                "a key must not contain the character NUL",
                "NUL here",
                None,
            );
        }
        refuse_nul(value, report);
    }
}
