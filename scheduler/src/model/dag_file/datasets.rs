//! Reads which datasets a task writes, and which a DAG waits for.

use std::collections::BTreeSet;

use toml::{Spanned, de::DeValue};

use super::{
    diagnostic::{Report, quoted},
    table::{Table, Text, text, wrong_type},
};
use crate::model::{DatasetExpression, DatasetName};

/// A task that writes more, or a DAG that waits for more, is refused.
const MOST_DATASETS: usize = 100;
/// An expression nested deeper than this is refused.
const DEEPEST: usize = 8;
const EXAMPLE: &str = "write `{ datasets = { all = [\"s3://lake/a\", \"s3://lake/b\"] } }`, or `any` in place of `all`";

/// Says whether this part of a `schedule` is about datasets and not about time: a table with `datasets`, or a list of
/// nothing else.
pub(super) fn is_meant(schedule: &Spanned<DeValue<'_>>) -> bool {
    match schedule.get_ref() {
        DeValue::Table(entries) => entries.get("datasets").is_some(),
        DeValue::Array(items) => !items.is_empty() && items.iter().all(is_meant),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => false,
    }
}

/// The datasets that a `schedule` waits for, in a list of schedules as well; what it says about time is left alone.
pub(super) fn awaited(
    schedule: &Spanned<DeValue<'_>>,
    report: &mut Report<'_>,
) -> Option<DatasetExpression> {
    let items = match schedule.get_ref() {
        DeValue::Array(items) => items.iter().collect(),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Table(_) => vec![schedule],
    };
    let mut meant = items
        .into_iter()
        .filter(|item| matches!(item.get_ref(), DeValue::Table(_)) && is_meant(item));
    let first = meant.next()?;
    for second in meant {
        report.refuse(
            second.span(),
            "`schedule` has `datasets` twice",
            "",
            Some("put both into one expression with `all` or `any`".to_owned()),
        );
    }
    let table = Table::of("`schedule`", first.span(), first, report)?;
    table.deny_unknown(&["datasets"], report);
    let read = expression(table.value("datasets")?, DEEPEST, report)?;
    let count = read.names().len();
    if count > MOST_DATASETS {
        report.refuse(
            first.span(),
            format!("the DAG waits for {count} datasets; at most {MOST_DATASETS} are allowed"),
            "",
            None,
        );
    }
    Some(read)
}

fn expression(
    value: &Spanned<DeValue<'_>>,
    depth: usize,
    report: &mut Report<'_>,
) -> Option<DatasetExpression> {
    match value.get_ref() {
        DeValue::String(_) => {
            let written = text(value, "a dataset", report)?;
            Some(DatasetExpression::Dataset(name(&written, report)?))
        }
        DeValue::Table(_) if depth == 0 => {
            report.refuse(
                value.span(),
                format!("`datasets` is nested deeper than {DEEPEST}"),
                "",
                None,
            );
            None
        }
        DeValue::Table(_) => {
            let table = Table::of("`datasets`", value.span(), value, report)?;
            table.deny_unknown(&["all", "any"], report);
            match (table.value("all"), table.value("any")) {
                (Some(all), None) => {
                    let all = parts("all", all, depth, report)?;
                    Some(DatasetExpression::All { all })
                }
                (None, Some(any)) => {
                    let any = parts("any", any, depth, report)?;
                    Some(DatasetExpression::Any { any })
                }
                (Some(_), Some(_)) | (None, None) => {
                    report.refuse(
                        value.span(),
                        "`datasets` takes one of `all` and `any`",
                        "",
                        Some(EXAMPLE.to_owned()),
                    );
                    None
                }
            }
        }
        other => {
            let hint = Some(EXAMPLE.to_owned());
            let expected = "a dataset, or a table with `all` or `any`";
            wrong_type(report, value.span(), "`datasets`", expected, other, hint);
            None
        }
    }
}

fn parts(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    depth: usize,
    report: &mut Report<'_>,
) -> Option<Vec<DatasetExpression>> {
    let DeValue::Array(items) = value.get_ref() else {
        let called = format!("`{key}`");
        let expected = "a list of datasets";
        wrong_type(
            report,
            value.span(),
            &called,
            expected,
            value.get_ref(),
            None,
        );
        return None;
    };
    if items.is_empty() {
        report.refuse(
            value.span(),
            format!("`{key}` is an empty list of datasets"),
            "",
            Some(
                "name at least one, or leave `schedule` out for a DAG that only runs by hand"
                    .to_owned(),
            ),
        );
        return None;
    }
    let parts: Vec<_> = items
        .iter()
        .map(|item| expression(item, depth - 1, report))
        .collect();
    parts.into_iter().collect()
}

/// The datasets that a task writes, as far as they can be names.
pub(super) fn outlets(task: &Table<'_, '_>, report: &mut Report<'_>) -> Vec<DatasetName> {
    let written = task.texts("outlets", report);
    if let Some(too_many) = written.get(MOST_DATASETS) {
        report.refuse(
            too_many.span.clone(),
            format!(
                "{} writes {} datasets; at most {MOST_DATASETS} are allowed",
                task.called,
                written.len()
            ),
            "this one is too many",
            None,
        );
    }
    let mut seen = BTreeSet::new();
    let mut outlets = Vec::new();
    for text in &written {
        let Some(name) = name(text, report) else {
            continue;
        };
        if seen.insert(name.clone()) {
            outlets.push(name);
        } else {
            report.refuse(
                text.span.clone(),
                format!("{} is named twice in `outlets`", quoted(&text.text)),
                "named before",
                Some("remove one".to_owned()),
            );
        }
    }
    outlets
}

fn name(written: &Text, report: &mut Report<'_>) -> Option<DatasetName> {
    let name = DatasetName::new(written.text.as_str());
    if name.is_none() {
        let hint = if written.text.contains(['{', '}']) {
            "a dataset is no template; name the whole set, such as \"s3://lake/clean/pins\""
                .to_owned()
        } else {
            format!(
                "a dataset is a URI or a name of 1 to {} bytes without blanks, such as \"s3://lake/clean/pins\"",
                DatasetName::LONGEST
            )
        };
        report.refuse(
            written.span.clone(),
            format!("{} cannot name a dataset", quoted(&written.text)),
            "not a dataset",
            Some(hint),
        );
    }
    name
}
