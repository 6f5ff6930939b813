//! Checks a `with` table against what its kind says about itself.

use std::ops::Range;

use pinwheel_tasks::{Field, FieldType, Kind, Presence};
use serde_json::{Map, Value};
use toml::{Spanned, de::DeValue};

use super::{
    diagnostic::{Report, quoted},
    read::Syntax,
    table::{Entry, Table, check_duration, json, text, wrong_type},
};
use crate::model::template::language::is_template;

/// The `with` table of a task, as the file has it.
pub(super) fn read(
    kind: &dyn Kind,
    task: &Table<'_, '_>,
    syntax: Syntax,
    report: &mut Report<'_>,
) -> Map<String, Value> {
    let noted_before = report.len();
    let called = format!("`with` of {}", task.called);
    let place = task.key_span("with").unwrap_or(task.place.clone());
    let (table, entries) = match task.value("with") {
        None => (None, Vec::new()),
        Some(value) => match Table::of(called.clone(), place.clone(), value, report) {
            Some(table) => {
                let entries = table.entries();
                (Some(table), entries)
            }
            None => return Map::new(),
        },
    };
    let names: Vec<&str> = kind.fields().iter().map(|field| field.name).collect();
    if let Some(table) = &table {
        table.deny_unknown(&names, report);
    }
    let mut with = Map::new();
    for entry in &entries {
        let name = entry.key.get_ref().as_ref();
        if let Some(field) = kind.fields().iter().find(|field| field.name == name) {
            check_type(field, entry, report);
        }
        if let Some(value) = json(entry.value, report) {
            with.insert(name.to_owned(), value);
        }
    }
    if syntax == Syntax::Whole {
        for field in kind
            .fields()
            .iter()
            .filter(|field| field.presence == Presence::Required)
        {
            if !with.contains_key(field.name)
                && table
                    .as_ref()
                    .is_none_or(|table| table.value(field.name).is_none())
            {
                report.refuse(
                    place.clone(),
                    format!("missing key `{}` in {called}", field.name),
                    format!("kind `{}` requires `{}`", kind.name(), field.name),
                    Some(format!("{}: {}", field.name, field.doc)),
                );
            }
        }
    }
    // A kind may rely on types and keys when it looks at the whole table.
    if syntax == Syntax::Whole && report.len() == noted_before {
        for problem in kind.check(&with) {
            let span = problem
                .field
                .as_deref()
                .and_then(|field| Some(table.as_ref()?.value(field)?.span()))
                .unwrap_or(place.clone());
            report.refuse(
                span,
                format!("{}: {}", task.called, problem.message),
                "",
                problem.hint,
            );
        }
    }
    with
}

fn check_type(field: &Field, entry: &Entry<'_, '_>, report: &mut Report<'_>) {
    let value = entry.value;
    let called = format!("`{}`", field.name);
    if field.field_type == FieldType::Verbatim {
        return check_verbatim(field, &called, value, report);
    }
    if field.field_type == FieldType::VerbatimList
        && let DeValue::Array(items) = value.get_ref()
    {
        let called = format!("an element of {called}");
        return items
            .iter()
            .for_each(|item| check_verbatim(field, &called, item, report));
    }
    // A template may render to any type.
    if field.field_type != FieldType::VerbatimList
        && matches!(value.get_ref(), DeValue::String(text) if is_template(text))
    {
        return;
    }
    let mut refuse = |expected: &str, hint: Option<&str>| {
        wrong_type(
            report,
            value.span(),
            &called,
            expected,
            value.get_ref(),
            hint.map(str::to_owned),
        );
    };
    let is_text = matches!(value.get_ref(), DeValue::String(_));
    match field.field_type {
        FieldType::Any => {}
        FieldType::Text | FieldType::Verbatim => {
            text(value, &called, report);
        }
        FieldType::Integer => {
            if !matches!(value.get_ref(), DeValue::Integer(_)) {
                refuse(
                    "a whole number",
                    is_text.then_some("write it without quotes"),
                );
            }
        }
        FieldType::Number => {
            if !matches!(value.get_ref(), DeValue::Integer(_) | DeValue::Float(_)) {
                refuse("a number", is_text.then_some("write it without quotes"));
            }
        }
        FieldType::Boolean => {
            if !matches!(value.get_ref(), DeValue::Boolean(_)) {
                refuse(
                    "`true` or `false`",
                    is_text.then_some("write it without quotes"),
                );
            }
        }
        FieldType::Duration => {
            check_duration(value, &called, report);
        }
        FieldType::VerbatimList => {
            refuse(
                "a list of texts",
                is_text.then_some("put it in square brackets"),
            );
        }
        FieldType::TextList => match value.get_ref() {
            DeValue::Array(items) => items.iter().for_each(|item| {
                text(item, &format!("an element of {called}"), report);
            }),
            _ => refuse(
                "a list of texts",
                is_text.then_some("put it in square brackets"),
            ),
        },
        FieldType::TextTable => match value.get_ref() {
            DeValue::Table(entries) => {
                for entry in Table::new("", 0..0, entries).entries() {
                    text(
                        entry.value,
                        &format!("{} in {called}", quoted(entry.key.get_ref())),
                        report,
                    );
                }
            }
            _ => refuse(
                "a table of texts",
                Some("write it as `{ NAME = \"value\" }`"),
            ),
        },
    }
}

/// A text that reaches an interpreter as it is must not be built from values.
fn check_verbatim(
    field: &Field,
    called: &str,
    value: &Spanned<DeValue<'_>>,
    report: &mut Report<'_>,
) {
    let Some(written) = text(value, called, report) else {
        return;
    };
    if !is_template(&written.text) {
        return;
    }
    let at = written
        .text
        .find("{{")
        .or_else(|| written.text.find("{%"))
        .unwrap_or_default();
    let end = written.text[at..]
        .find("}}")
        .or_else(|| written.text[at..].find("%}"))
        .map_or(at + 2, |found| at + found + 2);
    report.refuse(
        inside(report.source(), &written.span, &written.text, at..end),
        format!("a template in {called}, which is never templated"),
        "this would reach the interpreter as it is",
        Some(
            if field.name == "script" {
                "pass the value through `env`: `env = { NAME = \"{{ … }}\" }`, then use `\"$NAME\"`"
            } else {
                "pass the value as a parameter: `params = { name = \"{{ … }}\" }`, then use `$name`"
            }
            .to_owned(),
        ),
    );
}

/// The place in the file of a part of a text value, or of the whole value where that cannot be said.
pub(super) fn inside(
    source: &str,
    value: &Range<usize>,
    text: &str,
    part: Range<usize>,
) -> Range<usize> {
    find_inside(source.get(value.clone()).unwrap_or_default(), text, part)
        .map_or(value.clone(), |part| {
            value.start + part.start..value.start + part.end
        })
}

/// Walks the characters of a TOML string beside the text it stands for.
fn find_inside(written: &str, text: &str, part: Range<usize>) -> Option<Range<usize>> {
    let (quote, is_basic) = ["\"\"\"", "'''", "\"", "'"]
        .into_iter()
        .find(|quote| written.starts_with(quote) && written.len() >= 2 * quote.len())
        .map(|quote| (quote, quote.starts_with('"')))?;
    let content = &written[quote.len()..written.len() - quote.len()];
    let mut position = 0;
    if quote.len() == 3 {
        // The first newline does not count.
        position = content.len()
            - content
                .strip_prefix("\r\n")
                .or(content.strip_prefix('\n'))
                .unwrap_or(content)
                .len();
    }
    let (mut start, mut end) = (None, None);
    let mut read = 0;
    loop {
        if read == part.start {
            start.get_or_insert(position);
        }
        if read == part.end {
            end.get_or_insert(position);
        }
        if let (Some(start), Some(end)) = (start, end) {
            return Some(quote.len() + start..quote.len() + end);
        }
        let rest = content.get(position..)?;
        let mut characters = rest.chars();
        let first = characters.next()?;
        if is_basic && first == '\\' {
            let escape = characters.next()?;
            let digits = match escape {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                character if character.is_whitespace() => {
                    // A backslash at the end of a line swallows the space up to the next text.
                    position += 1 + (rest[1..].len() - rest[1..].trim_start().len());
                    continue;
                }
                _ => 0,
            };
            position += 2 + digits;
            read += text.get(read..)?.chars().next()?.len_utf8();
        } else if rest.starts_with("\r\n") && text.get(read..)?.starts_with('\n') {
            position += 2;
            read += 1;
        } else {
            position += first.len_utf8();
            read += first.len_utf8();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_text_is_found_in_the_file_behind_escapes() {
        for (written, text, part, found) in [
            (r#""a {{ x }}""#, "a {{ x }}", "x", "x"),
            (r#"'a {{ x }}'"#, "a {{ x }}", "x", "x"),
            (r#""\t\u00e9{{ x }}""#, "\té{{ x }}", "x", "x"),
            (r#""\U0001F600 \x41 {{ x }}""#, "😀 A {{ x }}", "x", "x"),
            ("\"\"\"\nline\n{{ x }}\"\"\"", "line\n{{ x }}", "x", "x"),
            ("'''\r\nline\r\n{{ x }}'''", "line\n{{ x }}", "x", "x"),
            ("\"\"\"a\\\n   {{ x }}\"\"\"", "a{{ x }}", "x", "x"),
            (r#""é{{ 'q' }}""#, "é{{ 'q' }}", "'q'", "'q'"),
            (r#""{{ \"q\" }}""#, "{{ \"q\" }}", "\"q\"", r#"\"q\""#),
        ] {
            let at = text.find(part).expect("the part is in the text");
            let range = find_inside(written, text, at..at + part.len()).expect(written);
            assert_eq!(&written[range], found, "{written}");
        }
    }
}
