//! Checks the templates of `with` tables without rendering them: every name they use must be there when they run.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
};

use pinwheel_tasks::{FieldType, Outputs, connections::CONNECTION_KEYS};
use toml::{Spanned, de::DeValue};

use super::{
    diagnostic::{Report, quoted, quoted_list},
    graph::Graph,
    read::{Draft, DraftTask},
    table::{Table, Text},
    with::inside,
};
use crate::model::{
    DatasetName, Param,
    flow::BRANCH,
    template::{
        self, NAMES, Name,
        language::{self, What},
    },
};

/// Notes everything that is wrong with the templates of a file.
pub(super) fn check(draft: &Draft<'_, '_>, graph: &Graph, report: &mut Report<'_>) {
    let tasks: HashMap<&str, usize> = draft
        .tasks
        .iter()
        .enumerate()
        .map(|(index, task)| (task.id.as_str(), index))
        .collect();
    // A key from `[defaults]` is every task's, and its errors are said once.
    let mut seen = HashSet::new();
    for (index, task) in draft.tasks.iter().enumerate() {
        let key = task.policy.concurrency_key.as_ref();
        if let Some(key) = key.filter(|key| seen.insert((key.span.start, key.span.end)))
            && language::is_template(&key.text)
        {
            let checking = Checking {
                draft,
                graph,
                tasks: &tasks,
                index,
                task,
                reads: Reads::BeforeItStarts,
            };
            checking.template(&key.text, &key.span, report);
        }
        choice(draft, graph, &tasks, index, report);
        let checking = Checking {
            draft,
            graph,
            tasks: &tasks,
            index,
            task,
            reads: Reads::Everything,
        };
        if let (Some(written), Some(when)) = (&task.flow.when, &task.flow.flow.when) {
            checking.expression(written, when, report);
        }
        if let Some(name) = task.flow.item_name.as_ref()
            && language::is_template(&name.text)
        {
            checking.template(&name.text, &name.span, report);
        }
        let mut texts = Vec::new();
        if let Some(with) = task.with_value {
            collect(task, with, &mut texts);
        }
        for (text, span) in texts {
            checking.template(text, &span, report);
        }
        if let Some(foreach) = task.flow.foreach {
            let checking = Checking {
                reads: Reads::NoItem,
                ..checking
            };
            let mut texts = Vec::new();
            walk(foreach, &mut texts);
            for (text, span) in texts {
                checking.template(text, &span, report);
            }
        }
    }
}

/// Notes what a branch chooses by name although it is not directly downstream of it.
fn choice(
    draft: &Draft<'_, '_>,
    graph: &Graph,
    tasks: &HashMap<&str, usize>,
    index: usize,
    report: &mut Report<'_>,
) {
    let task = &draft.tasks[index];
    let is_branch = task.kind.as_ref().is_some_and(|kind| kind.name() == BRANCH);
    let Some(DeValue::Table(with)) = task.with_value.map(Spanned::get_ref).filter(|_| is_branch)
    else {
        return;
    };
    let Some(choose) = with.get("choose") else {
        return;
    };
    let names: Vec<&Spanned<DeValue<'_>>> = match choose.get_ref() {
        DeValue::Array(items) => items.iter().collect(),
        _one => vec![choose],
    };
    let below = || {
        (0..draft.tasks.len())
            .filter(|other| graph.upstream(*other).any(|above| above == index))
            .map(|other| draft.tasks[other].id.as_str())
    };
    for name in names {
        let DeValue::String(id) = name.get_ref() else {
            continue;
        };
        if language::is_template(id) || below().any(|one| one == id) {
            continue;
        }
        let hint = match tasks.contains_key(id.as_ref()) {
            true => Some(format!(
                "add {} to `after` of task {}",
                quoted(&task.id),
                quoted(id)
            )),
            false => report.guess(id, below(), || {
                Some(format!("directly downstream are {}", quoted_list(below())))
            }),
        };
        report.refuse(
            name.span(),
            format!(
                "branch {} chooses {}, which is not directly downstream of it",
                quoted(&task.id),
                quoted(id)
            ),
            "not directly downstream",
            hint,
        );
    }
}

fn walk<'t>(value: &'t Spanned<DeValue<'_>>, texts: &mut Vec<(&'t str, Range<usize>)>) {
    match value.get_ref() {
        DeValue::String(text) if language::is_template(text) => texts.push((text, value.span())),
        DeValue::Array(items) => items.iter().for_each(|item| walk(item, texts)),
        DeValue::Table(entries) => {
            Table::new("", 0..0, entries)
                .entries()
                .into_iter()
                .for_each(|entry| walk(entry.value, texts));
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

/// The texts of a `with` table that are rendered.
fn collect<'t>(
    task: &DraftTask<'_, '_>,
    with: &'t Spanned<DeValue<'_>>,
    texts: &mut Vec<(&'t str, Range<usize>)>,
) {
    let DeValue::Table(entries) = with.get_ref() else {
        return;
    };
    for entry in Table::new("", 0..0, entries).entries() {
        let name = entry.key.get_ref().as_ref();
        let field = task
            .kind
            .as_ref()
            .and_then(|kind| kind.fields().iter().find(|field| field.name == name));
        // A template in a verbatim field has been refused already.
        if field.is_none_or(|field| {
            !matches!(
                field.field_type,
                FieldType::Verbatim | FieldType::VerbatimList
            )
        }) {
            walk(entry.value, texts);
        }
    }
}

/// One task whose templates are checked.
struct Checking<'a, 't, 's> {
    draft: &'a Draft<'t, 's>,
    graph: &'a Graph,
    tasks: &'a HashMap<&'a str, usize>,
    index: usize,
    task: &'a DraftTask<'t, 's>,
    reads: Reads,
}

/// What a template may read, by when it is rendered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// When a try starts.
    Everything,
    /// When the task becomes ready: no try has a number yet, and outputs are not at hand.
    BeforeItStarts,
    /// When a try starts that makes the items.
    NoItem,
}

impl Checking<'_, '_, '_> {
    /// An expression without braces, and the template that was made of it.
    fn expression(&self, written: &Text, template: &str, report: &mut Report<'_>) {
        let shift = if language::is_template(&written.text) {
            0
        } else {
            "{{ ".len()
        };
        let place = |report: &Report<'_>, part: Range<usize>| {
            let end = written.text.len();
            let start = part.start.saturating_sub(shift).min(end);
            let part = start..part.end.saturating_sub(shift).clamp(start, end);
            inside(report.source(), &written.span, &written.text, part)
        };
        if self.parsed(template, &place, report) && !language::is_lone(template) {
            report.refuse(
                written.span.clone(),
                "`when` must be one expression",
                "more than one",
                Some("write it without braces, as in `when = \"params.full\"`".to_owned()),
            );
        }
    }

    fn template(&self, text: &str, value: &Range<usize>, report: &mut Report<'_>) {
        let place =
            |report: &Report<'_>, part: Range<usize>| inside(report.source(), value, text, part);
        self.parsed(text, &place, report);
    }

    /// False when it cannot be parsed.
    fn parsed(
        &self,
        text: &str,
        place: &dyn Fn(&Report<'_>, Range<usize>) -> Range<usize>,
        report: &mut Report<'_>,
    ) -> bool {
        let template = match language::read(text) {
            Ok(template) => template,
            Err(error) => {
                let span = place(report, error.span);
                let hint = text
                    .contains("{{")
                    .then(|| "for a literal `{{` write `{{ \"{{\" }}`".to_owned());
                report.refuse(
                    span,
                    format!("invalid template: {}", error.message),
                    "",
                    hint,
                );
                return false;
            }
        };
        for used in template.uses {
            let span = place(report, used.span);
            match used.what {
                What::Path(parts) => self.path(&parts, span, report),
                What::Filter(name) if !template::is_filter(&name) => {
                    let hint = report.guess(&name, template::FILTERS, || {
                        Some(format!(
                            "the filters are {}",
                            quoted_list(template::FILTERS)
                        ))
                    });
                    report.refuse(span, format!("unknown filter {}", quoted(&name)), "", hint);
                }
                What::Test(name) if !template::is_test(&name) => {
                    report.refuse(span, format!("unknown test {}", quoted(&name)), "", None);
                }
                What::Function(name) if !template::functions().any(|function| function == name) => {
                    let hint = report.guess(&name, template::functions(), || {
                        Some("a value is changed by a filter, as in `{{ ds | upper }}`".to_owned())
                    });
                    report.refuse(
                        span,
                        format!("unknown function {}", quoted(&name)),
                        "",
                        hint,
                    );
                }
                What::Method(name) => {
                    let hint = "a value is changed by a filter, as in `{{ ds | upper }}`";
                    report.refuse(
                        span,
                        format!("values have no method {}", quoted(&name)),
                        "",
                        Some(hint.to_owned()),
                    );
                }
                What::Filter(_) | What::Test(_) | What::Function(_) => {}
            }
        }
        true
    }

    fn path(&self, parts: &[String], span: Range<usize>, report: &mut Report<'_>) {
        let Some((root, rest)) = parts.split_first() else {
            return;
        };
        let Some((_, name)) = NAMES.iter().find(|(name, _)| name == root) else {
            return self.unknown_root(root, span, report);
        };
        if self.reads == Reads::BeforeItStarts
            && matches!(
                root.as_str(),
                "outputs" | "try_number" | "triggering_datasets" | "var" | "conn"
            )
        {
            report.refuse(
                span,
                format!("`concurrency_key` cannot read `{root}`"),
                "it is rendered before the task starts",
                Some(
                    "use `params`, `dag.id`, `run.id`, `task.id` or a date such as `ds`".to_owned(),
                ),
            );
            return;
        }
        if matches!(name, Name::Item | Name::ItemIndex) {
            let hint = match self.reads {
                Reads::NoItem => "`foreach` makes the items; read `params` or `outputs` there",
                Reads::Everything | Reads::BeforeItStarts => {
                    "give the task a `foreach`, such as `foreach = [\"a\", \"b\"]`"
                }
            };
            if self.task.flow.foreach.is_none() || self.reads == Reads::NoItem {
                report.refuse(
                    span,
                    format!("`{root}` is not there"),
                    "no item here",
                    Some(hint.to_owned()),
                );
                return;
            }
        }
        match (name, rest) {
            (Name::Params, [param, ..]) => check_param(param, &self.draft.params, span, report),
            (Name::Outputs, []) => {
                let hint = "name the task and the output, as in `outputs.land.manifest`";
                report.refuse(
                    span,
                    "`outputs` needs the name of a task",
                    "of which task?",
                    Some(hint.to_owned()),
                );
            }
            (Name::Variables, []) => {
                let hint = "name it, as in `var.region`, or `var[\"my-variable\"]`";
                let message = "`var` needs the name of a variable";
                report.refuse(span, message, "which variable?", Some(hint.to_owned()));
            }
            (Name::Connections, []) => {
                let hint = "name it and its part, as in `conn.warehouse.host`";
                let message = "`conn` needs the id of a connection";
                report.refuse(span, message, "which connection?", Some(hint.to_owned()));
            }
            (Name::Connections, [id, part, ..]) if !CONNECTION_KEYS.contains(&part.as_str()) => {
                let hint = report.guess(part, CONNECTION_KEYS, || {
                    Some(format!(
                        "it has {}; what is its own is in `extra`, as in `conn.{id}.extra.{part}`",
                        quoted_list(CONNECTION_KEYS)
                    ))
                });
                let message = format!("a connection has no {}", quoted(part));
                report.refuse(span, message, "", hint);
            }
            (Name::Outputs, [task, rest @ ..]) => self.output(task, rest.first(), span, report),
            (Name::Table(keys), [key, ..]) if !keys.contains(&key.as_str()) => {
                let message = format!("`{root}` has no {}", quoted(key));
                report.refuse(
                    span,
                    message,
                    "",
                    Some(format!("it has {}", quoted_list(keys.iter().copied()))),
                );
            }
            (Name::Scalar | Name::ItemIndex, [key, ..]) => {
                let message = format!("`{root}` is a plain value and has no {}", quoted(key));
                report.refuse(span, message, "", None);
            }
            (Name::Datasets, [dataset, ..]) => self.dataset(dataset, span, report),
            (
                Name::Params
                | Name::Variables
                | Name::Connections
                | Name::Datasets
                | Name::Table(_)
                | Name::Scalar
                | Name::Item
                | Name::ItemIndex,
                _,
            ) => {}
        }
    }

    fn unknown_root(&self, root: &str, span: Range<usize>, report: &mut Report<'_>) {
        let roots = || NAMES.iter().map(|(name, _)| *name);
        let hint = if self.draft.params.contains_key(root) {
            Some(format!("did you mean `params.{root}`?"))
        } else if self.tasks.contains_key(root) {
            Some(format!("did you mean `outputs.{root}`?"))
        } else if self
            .tasks
            .keys()
            .any(|id| id.contains('-') && id.split('-').any(|part| part == root))
        {
            Some("an id with `-` is written in brackets: `outputs[\"my-task\"].name`".to_owned())
        } else {
            report.guess(root, roots(), || {
                Some(format!("a template may use {}", quoted_list(roots())))
            })
        };
        report.refuse(
            span,
            format!("unknown name {} in a template", quoted(root)),
            "not a name",
            hint,
        );
    }

    fn dataset(&self, name: &str, span: Range<usize>, report: &mut Report<'_>) {
        let awaited = self.draft.header.datasets.as_ref();
        let names = || {
            let names = awaited.into_iter().flat_map(|set| set.names());
            names.map(DatasetName::as_str)
        };
        if names().any(|known| known == name) {
            return;
        }
        let hint = match awaited {
            None => Some("add `schedule = { datasets = { all = [\"…\"] } }` to `[dag]`".to_owned()),
            // `triggering_datasets.s3` is what is left of a URI that is not in brackets.
            Some(_) => report.guess(name, names(), || {
                Some(format!(
                    "write one in brackets, as in `triggering_datasets[\"{}\"]`",
                    names().next().unwrap_or_default()
                ))
            }),
        };
        report.refuse(
            span,
            format!("the DAG does not wait for the dataset {}", quoted(name)),
            "",
            hint,
        );
    }

    fn output(&self, id: &str, name: Option<&String>, span: Range<usize>, report: &mut Report<'_>) {
        let own = quoted(&self.task.id);
        let Some(above) = self.tasks.get(id).copied() else {
            let others = || {
                self.draft
                    .tasks
                    .iter()
                    .map(|task| task.id.as_str())
                    .filter(|id| *id != self.task.id)
            };
            // `outputs.my-task.x` reads as `outputs.my` minus `task.x`.
            let dashed = others().find(|other| {
                other
                    .strip_prefix(id)
                    .is_some_and(|rest| rest.starts_with(['-', '.']))
            });
            let hint = match dashed {
                Some(dashed) => Some(format!("write its id in brackets: `outputs[\"{dashed}\"]`")),
                None => report.guess(id, others(), || {
                    (self.draft.tasks.len() > 1)
                        .then(|| format!("the other tasks are {}", quoted_list(others())))
                }),
            };
            report.refuse(
                span,
                format!("unknown task {} in a template of task {own}", quoted(id)),
                "no task has this id",
                hint,
            );
            return;
        };
        if above == self.index {
            report.refuse(
                span,
                format!("task {own} reads its own output"),
                "there is none before it has run",
                None,
            );
            return;
        }
        if !self.graph.is_upstream(above, self.index) {
            let hint = if self.graph.is_upstream(self.index, above) {
                format!("{} runs after {own}", quoted(id))
            } else {
                format!("add `\"{id}\"` to `after` of task {own}")
            };
            let message = format!(
                "task {own} reads the output of {}, which is not upstream of it",
                quoted(id)
            );
            report.refuse(span, message, "may not have run yet", Some(hint));
            return;
        }
        let above = &self.draft.tasks[above];
        if above.flow.foreach.is_some() {
            if let Some(name) = name {
                report.refuse(
                    span,
                    format!(
                        "the output of {} is a list with one entry for each item, and has no {}",
                        quoted(id),
                        quoted(name)
                    ),
                    "a list",
                    Some(format!(
                        "use `outputs.{id} | map(attribute=\"{name}\")`, or `outputs.{id}[0].{name}`"
                    )),
                );
            }
            return;
        }
        let Some((name, kind)) = name.zip(above.kind.as_ref()) else {
            return;
        };
        let Outputs::Known(known) = kind.outputs() else {
            return;
        };
        if known.iter().all(|(known, _)| known != name) {
            let names = || known.iter().map(|(name, _)| *name);
            let hint = report.guess(name, names(), || match known {
                [] => Some(format!("kind `{}` has no output at all", kind.name())),
                _ => Some(format!(
                    "kind `{}` has the outputs {}",
                    kind.name(),
                    quoted_list(names())
                )),
            });
            let message = format!("unknown output {} of task {}", quoted(name), quoted(id));
            report.refuse(
                span,
                message,
                format!("kind `{}` has no such output", kind.name()),
                hint,
            );
        }
    }
}

fn check_param(
    name: &str,
    params: &BTreeMap<String, Option<Param>>,
    span: Range<usize>,
    report: &mut Report<'_>,
) {
    if params.contains_key(name) {
        return;
    }
    let known = || params.keys().map(String::as_str);
    // `params.my-param` reads as `params.my` minus `param`.
    let dashed = known().find(|known| {
        known
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['-', '.']))
    });
    let hint = match dashed {
        Some(dashed) => Some(format!(
            "write its name in brackets: `params[\"{dashed}\"]`"
        )),
        None => report.guess(name, known(), || {
            Some(if params.is_empty() {
                format!("declare it: `[params.{name}]` with `type = \"string\"`")
            } else {
                format!("the params are {}", quoted_list(known()))
            })
        }),
    };
    report.refuse(
        span,
        format!("unknown param {} in a template", quoted(name)),
        "not declared",
        hint,
    );
}
