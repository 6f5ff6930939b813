//! Reads a DAG file table by table. What stands in a table is checked here and in the modules this one calls; what one
//! task says about another is checked in `graph` and `references`.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use pinwheel_tasks::{Kind, Registry};
use serde_json::{Map, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    alerts, datasets,
    declared::{Runs, params},
    diagnostic::{Report, quoted, quoted_list},
    flow::{self, DraftFlow, DraftGroup, FLOW_KEYS},
    header::{Header, header},
    policy::{POLICY_KEYS, Policy},
    table::{Table, Text, check_name},
    with,
};
use crate::model::{DatasetName, Deadline, Notify, Param, TaskId};

/// What a file says, read as far as it can be.
pub(super) struct Draft<'t, 's> {
    pub(super) header: Header,
    /// Every param that is declared; `None` where its declaration is wrong.
    pub(super) params: BTreeMap<String, Option<Param>>,
    pub(super) groups: Vec<DraftGroup>,
    /// In the order of the file.
    pub(super) tasks: Vec<DraftTask<'t, 's>>,
    pub(super) deadlines: Vec<Deadline>,
    pub(super) notify: Vec<Notify>,
}

/// One table `[tasks.ID]`.
pub(super) struct DraftTask<'t, 's> {
    pub(super) id: String,
    pub(super) id_span: Range<usize>,
    pub(super) kind: Option<Arc<dyn Kind>>,
    pub(super) after: Vec<Text>,
    pub(super) policy: Policy,
    pub(super) flow: DraftFlow<'t, 's>,
    pub(super) outlets: Vec<DatasetName>,
    pub(super) with: Map<String, Value>,
    pub(super) with_value: Option<&'t Spanned<DeValue<'s>>>,
}

pub(super) const FILE_KEYS: [&str; 7] = [
    "dag", "params", "defaults", "groups", "tasks", "deadline", "notify",
];
/// The keys that belong to a task alone, besides those of [`FLOW_KEYS`].
const OWN_KEYS: [&str; 4] = ["kind", "after", "outlets", "with"];

/// Every key of a task.
pub(super) fn task_keys() -> Vec<&'static str> {
    [&OWN_KEYS[..], &POLICY_KEYS, &FLOW_KEYS].concat()
}

const MOST_TASKS: usize = 5_000;
const MOST_EDGES: usize = 50_000;

/// Whether the file could be parsed as a whole. What seems to be missing in one that could not may only be hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Whole,
    Broken,
}

/// Reads the tables of a file. `None` when the file is too large to go on.
pub(super) fn read<'t, 's>(
    root: &'t DeTable<'s>,
    registry: &Registry,
    syntax: Syntax,
    report: &mut Report<'_>,
) -> Option<Draft<'t, 's>> {
    let file = Table::new("the file", 0..0, root);
    file.deny_unknown(&FILE_KEYS, report);
    let header = match table(&file, "dag", report) {
        Some(dag) => header(&dag, syntax, report),
        None => {
            if syntax == Syntax::Whole && file.value("dag").is_none() {
                let hint = "begin the file with `[dag]` and `id = \"…\"`";
                report.refuse(
                    0..0,
                    "missing table `[dag]`",
                    "every file describes one DAG",
                    Some(hint.to_owned()),
                );
            }
            Header::default()
        }
    };
    let runs = if header.schedule.is_some() || header.datasets.is_some() {
        Runs::Scheduled
    } else {
        Runs::ByHand
    };
    let params = table(&file, "params", report)
        .map(|declared| params(&declared, runs, syntax, report))
        .unwrap_or_default();
    let mut policy = Policy::default();
    if let Some(defaults) = table(&file, "defaults", report) {
        defaults.deny_unknown(&POLICY_KEYS, report);
        policy = policy.overridden(&defaults, report);
    }
    let groups = table(&file, "groups", report)
        .map(|groups| flow::groups(&groups, report))
        .unwrap_or_default();
    let Some(tasks) = table(&file, "tasks", report) else {
        if syntax == Syntax::Whole && file.value("tasks").is_none() {
            let hint = "add a table such as `[tasks.hello]` with `kind = \"shell\"`";
            report.refuse(
                file.key_span("dag").unwrap_or(0..0),
                "the DAG has no tasks",
                "",
                Some(hint.to_owned()),
            );
        }
        return Some(Draft {
            header,
            params,
            groups,
            tasks: Vec::new(),
            deadlines: Vec::new(),
            notify: Vec::new(),
        });
    };
    let entries = tasks.entries();
    if entries.is_empty() && syntax == Syntax::Whole {
        let hint = "add a table such as `[tasks.hello]` with `kind = \"shell\"`";
        report.refuse(
            tasks.place.clone(),
            "the DAG has no tasks",
            "",
            Some(hint.to_owned()),
        );
    }
    if let Some(first_too_many) = entries.get(MOST_TASKS) {
        report.refuse(
            first_too_many.key.span(),
            format!(
                "the DAG has {} tasks; at most {MOST_TASKS} are allowed",
                entries.len()
            ),
            "this one is too many",
            Some("split it into several DAGs, or let one task work on a list".to_owned()),
        );
        return None;
    }
    let mut edges = 0;
    let mut drafts = Vec::with_capacity(entries.len());
    for entry in entries {
        let id = entry.key.get_ref().as_ref();
        check_name(id, entry.key.span(), "task", report);
        let called = format!("task {}", quoted(id));
        let Some(table) = Table::of(called, entry.key.span(), entry.value, report) else {
            continue;
        };
        let draft = task(id, &table, &policy, registry, syntax, report);
        edges += draft.after.len();
        drafts.push(draft);
    }
    if edges > MOST_EDGES {
        report.refuse(
            tasks.place.clone(),
            format!(
                "the tasks name {edges} upstream tasks in all; at most {MOST_EDGES} are allowed"
            ),
            "",
            Some("put a `noop` task between many tasks and many others".to_owned()),
        );
        return None;
    }
    let ids: Vec<&str> = drafts.iter().map(|task| task.id.as_str()).collect();
    let deadlines = alerts::deadlines(&file, &ids, runs, syntax, report);
    let notify = alerts::notify(&file, &ids, syntax, report);
    Some(Draft {
        header,
        params,
        groups,
        tasks: drafts,
        deadlines,
        notify,
    })
}

fn table<'t, 's>(
    file: &Table<'t, 's>,
    key: &str,
    report: &mut Report<'_>,
) -> Option<Table<'t, 's>> {
    let value = file.value(key)?;
    let place = file.key_span(key).unwrap_or(0..0);
    Table::of(format!("`[{key}]`"), place, value, report)
}

fn task<'t, 's>(
    id: &str,
    table: &Table<'t, 's>,
    defaults: &Policy,
    registry: &Registry,
    syntax: Syntax,
    report: &mut Report<'_>,
) -> DraftTask<'t, 's> {
    table.deny_unknown(&task_keys(), report);
    if syntax == Syntax::Whole {
        table.require("kind", "kind = \"shell\"", report);
    }
    let kind = table
        .text("kind", report)
        .and_then(|written| kind(&written, registry, report));
    let with_value = table.value("with");
    let flow = flow::flow(table, report);
    let mut policy = defaults.clone().overridden(table, report);
    if flow.flow.teardown && table.value("allow_failure").is_none() {
        // What is left behind is no reason to call the work failed.
        policy.allow_failure = true;
    }
    let with = kind
        .as_ref()
        .map(|kind| with::read(kind.as_ref(), table, syntax, report))
        .unwrap_or_default();
    DraftTask {
        id: id.to_owned(),
        id_span: table.place.clone(),
        kind,
        after: table.texts("after", report),
        policy,
        flow,
        outlets: datasets::outlets(table, report),
        with,
        with_value,
    }
}

fn kind(written: &Text, registry: &Registry, report: &mut Report<'_>) -> Option<Arc<dyn Kind>> {
    let kind = registry.get(&written.text).cloned();
    if kind.is_none() {
        let hint = report.guess(&written.text, registry.names(), || {
            Some(format!("the kinds are {}", quoted_list(registry.names())))
        });
        report.refuse(
            written.span.clone(),
            format!("unknown kind {}", quoted(&written.text)),
            "no such kind",
            hint,
        );
    }
    kind
}

impl DraftTask<'_, '_> {
    /// The task's id as a type, where it can be one.
    pub(super) fn task_id(&self) -> Option<TaskId> {
        TaskId::new(self.id.as_str())
    }
}
