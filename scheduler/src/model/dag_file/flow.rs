//! Reads the keys of a task that decide about it besides its trigger rule, and the tables `[groups.NAME]`.

use std::collections::BTreeMap;

use serde_json::Value;
use toml::{Spanned, de::DeValue};

use super::{
    diagnostic::{Report, quoted},
    table::{Table, Text, check_name, json, wrong_type},
};
use crate::model::{Flow, Foreach, Group, template::language};

/// The keys of a task that this module reads.
pub(super) const FLOW_KEYS: [&str; 6] = [
    "when",
    "setup",
    "teardown",
    "foreach",
    "item_name",
    "max_active_items",
];

pub(super) const GROUP_KEYS: [&str; 2] = ["description", "after"];

/// What a task says, with the places that later checks need.
#[derive(Default)]
pub(super) struct DraftFlow<'t, 's> {
    pub(super) flow: Flow,
    /// The expression of `when` as it was written.
    pub(super) when: Option<Text>,
    pub(super) foreach: Option<&'t Spanned<DeValue<'s>>>,
    pub(super) item_name: Option<Text>,
}

/// Reads the flow keys of a task.
pub(super) fn flow<'t, 's>(table: &Table<'t, 's>, report: &mut Report<'_>) -> DraftFlow<'t, 's> {
    let mut flow = Flow {
        setup: table.boolean("setup", report).unwrap_or(false),
        teardown: table.boolean("teardown", report).unwrap_or(false),
        ..Flow::default()
    };
    let key_span = |key: &str| table.key_span(key).unwrap_or(table.place.clone());
    if flow.setup && flow.teardown {
        report.refuse(
            key_span("teardown"),
            format!("{} is both a setup and a teardown", table.called),
            "",
            Some("make two tasks of it".to_owned()),
        );
    }
    if flow.teardown && table.value("trigger_rule").is_some() {
        report.refuse(
            key_span("trigger_rule"),
            "a teardown has a rule of its own",
            "not for a teardown",
            Some(
                "it runs when its setup succeeded and the work between is done; remove `trigger_rule`"
                    .to_owned(),
            ),
        );
    }
    let when = table.text("when", report);
    if let Some(when) = &when {
        if when.text.trim().is_empty() {
            report.refuse(
                when.span.clone(),
                "`when` is empty",
                "",
                Some("leave it out, or write an expression such as `params.full`".to_owned()),
            );
        }
        flow.when = Some(as_template(&when.text));
    }
    let foreach = table.value("foreach");
    let item_name = table.text("item_name", report);
    let max_active_items = table
        .integer("max_active_items", 1..=10_000, report)
        .and_then(|most| u32::try_from(most).ok());
    match foreach {
        Some(value) => {
            flow.foreach = list(value, report).map(|list| Foreach {
                list,
                item_name: item_name.as_ref().map(|name| name.text.clone()),
                max_active_items,
            });
        }
        None => {
            for key in ["item_name", "max_active_items"] {
                if let Some(span) = table.key_span(key) {
                    report.refuse(
                        span,
                        format!("`{key}` without `foreach`"),
                        "there are no items",
                        Some(
                            "add `foreach = [\"a\", \"b\"]`, or a template that gives a list"
                                .to_owned(),
                        ),
                    );
                }
            }
        }
    }
    DraftFlow {
        flow,
        when,
        foreach,
        item_name,
    }
}

/// `when` is an expression; who writes it as a template means the same.
pub(super) fn as_template(expression: &str) -> String {
    if language::is_template(expression) {
        expression.to_owned()
    } else {
        format!("{{{{ {expression} }}}}")
    }
}

/// A list, or a template that gives one when the task is due.
fn list(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Value> {
    let hint = || {
        Some(
            "write a list, or a template that gives one, such as \"{{ outputs.list.files }}\""
                .to_owned(),
        )
    };
    match value.get_ref() {
        DeValue::Array(_) => json(value, report),
        DeValue::String(text) if language::is_lone(text) => json(value, report),
        DeValue::String(text) => {
            report.refuse(
                value.span(),
                format!("`foreach` is the text {}", quoted(text)),
                "not a list",
                hint(),
            );
            None
        }
        other => {
            wrong_type(report, value.span(), "`foreach`", "a list", other, hint());
            None
        }
    }
}

/// A table `[groups.NAME]`.
pub(super) struct DraftGroup {
    pub(super) name: Text,
    pub(super) group: Group,
    /// What the first tasks of the group come after.
    pub(super) after: Vec<Text>,
}

/// Reads every group.
pub(super) fn groups(groups: &Table<'_, '_>, report: &mut Report<'_>) -> Vec<DraftGroup> {
    let mut read = Vec::new();
    for entry in groups.entries() {
        let name = entry.key.get_ref().as_ref();
        check_name(name, entry.key.span(), "group", report);
        let called = format!("group {}", quoted(name));
        let Some(table) = Table::of(called, entry.key.span(), entry.value, report) else {
            continue;
        };
        table.deny_unknown(&GROUP_KEYS, report);
        read.push(DraftGroup {
            name: Text {
                text: name.to_owned(),
                span: entry.key.span(),
            },
            group: Group {
                description: table
                    .text("description", report)
                    .map(|text| text.text)
                    .unwrap_or_default(),
            },
            after: table.texts("after", report),
        });
    }
    read
}

/// The groups by name.
pub(super) fn named(groups: Vec<DraftGroup>) -> BTreeMap<String, Group> {
    groups
        .into_iter()
        .map(|draft| (draft.name.text, draft.group))
        .collect()
}
