//! Reads the tables `[params.NAME]`: what a run may be given.

use std::collections::BTreeMap;

use serde_json::Value;
use toml::{Spanned, de::DeValue};

use super::{
    diagnostic::{Report, quoted},
    read::Syntax,
    table::{Table, check_name, json, word, wrong_type},
};
use crate::model::{Param, ParamType};

pub(super) const PARAM_KEYS: [&str; 7] = [
    "type",
    "default",
    "description",
    "minimum",
    "maximum",
    "pattern",
    "enum",
];

/// Who makes runs of the DAG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    /// The schedule, which gives no values, and people.
    Scheduled,
    /// People alone.
    ByHand,
}

/// Reads every declaration; `None` where it is wrong.
pub(super) fn params(
    params: &Table<'_, '_>,
    runs: Runs,
    syntax: Syntax,
    report: &mut Report<'_>,
) -> BTreeMap<String, Option<Param>> {
    let mut read = BTreeMap::new();
    for entry in params.entries() {
        let name = entry.key.get_ref().as_ref();
        check_name(name, entry.key.span(), "param", report);
        let called = format!("param {}", quoted(name));
        let Some(table) = Table::of(called, entry.key.span(), entry.value, report) else {
            continue;
        };
        let is_needed = runs == Runs::Scheduled && syntax == Syntax::Whole;
        if is_needed && table.value("default").is_none() {
            report.refuse(
                entry.key.span(),
                format!(
                    "param {} has no default, but the DAG has a schedule",
                    quoted(name)
                ),
                "a scheduled run gives no value",
                Some("add a `default`".to_owned()),
            );
        }
        read.insert(name.to_owned(), param(&table, syntax, report));
    }
    read
}

fn param(table: &Table<'_, '_>, syntax: Syntax, report: &mut Report<'_>) -> Option<Param> {
    table.deny_unknown(&PARAM_KEYS, report);
    if syntax == Syntax::Whole {
        table.require("type", "type = \"string\"", report);
    }
    let types = ParamType::ALL.map(|param_type| (param_type.name(), param_type));
    let param_type = word(table, "type", &types, report)?;
    let mut param = Param {
        param_type,
        default: None,
        description: table
            .text("description", report)
            .map(|text| text.text)
            .unwrap_or_default(),
        minimum: bound(table, "minimum", param_type, report),
        maximum: bound(table, "maximum", param_type, report),
        pattern: pattern(table, param_type, report),
        choices: Vec::new(),
    };
    if let (Some(minimum), Some(maximum)) = (param.minimum, param.maximum)
        && minimum > maximum
    {
        let span = table
            .value("minimum")
            .map_or(table.place.clone(), Spanned::span);
        report.refuse(
            span,
            format!("`minimum` {minimum} is above `maximum` {maximum}"),
            "",
            None,
        );
    }
    let mut choices = Vec::new();
    for choice in table.list("enum", report) {
        choices.extend(value_of(choice, &param, "an element of `enum`", report));
    }
    param.choices = choices;
    if let Some(default) = table.value("default") {
        param.default = value_of(default, &param, "`default`", report);
        // Checked against nothing further where it was wrong already.
        param.default.as_ref()?;
    }
    Some(param)
}

fn value_of(
    value: &Spanned<DeValue<'_>>,
    param: &Param,
    called: &str,
    report: &mut Report<'_>,
) -> Option<Value> {
    let found = json(value, report)?;
    match param.check(&found) {
        Ok(checked) => Some(checked),
        Err(message) => {
            report.refuse(
                value.span(),
                format!("{called} of the param: {message}"),
                "",
                None,
            );
            None
        }
    }
}

fn bound(
    table: &Table<'_, '_>,
    key: &str,
    param_type: ParamType,
    report: &mut Report<'_>,
) -> Option<f64> {
    let value = table.value(key)?;
    if !matches!(param_type, ParamType::Integer | ParamType::Number) {
        let span = table.key_span(key).unwrap_or(value.span());
        report.refuse(
            span,
            format!(
                "`{key}` is for numbers, the param is a {}",
                param_type.name()
            ),
            "",
            None,
        );
        return None;
    }
    match value.get_ref() {
        DeValue::Integer(_) | DeValue::Float(_) => json(value, report)?.as_f64(),
        other => {
            wrong_type(
                report,
                value.span(),
                &format!("`{key}`"),
                "a number",
                other,
                None,
            );
            None
        }
    }
}

fn pattern(
    table: &Table<'_, '_>,
    param_type: ParamType,
    report: &mut Report<'_>,
) -> Option<String> {
    let written = table.text("pattern", report)?;
    if param_type != ParamType::String {
        let span = table.key_span("pattern").unwrap_or(written.span);
        report.refuse(
            span,
            format!(
                "`pattern` is for texts, the param is a {}",
                param_type.name()
            ),
            "",
            None,
        );
        return None;
    }
    if let Err(error) = crate::model::params::whole_match(&written.text) {
        let reason = error.to_string();
        let reason = reason
            .lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned();
        report.refuse(
            written.span,
            format!("`pattern` is no regular expression: {reason}"),
            "",
            None,
        );
        return None;
    }
    Some(written.text)
}
