//! Reads DAG files: bytes in, a validated [`Dag`] or every error of the file out. No I/O: whoever has the bytes asks.

mod alerts;
mod datasets;
mod declared;
mod diagnostic;
mod flow;
mod graph;
mod header;
mod policy;
mod read;
mod references;
mod render;
mod schema;
mod table;
mod with;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, ops::Range};

use pinwheel_tasks::Registry;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Alerts, Dag, DagId, Flow, Task,
    flow::{Shape, setups},
};

pub use diagnostic::Diagnostic;
pub use render::{Colour, render};
pub use schema::schema;

pub(super) use diagnostic::{nearest, quoted, quoted_list};

use diagnostic::Report;
use graph::Graph;
use header::{Header, MAX_ACTIVE_RUNS};
use read::{Draft, Syntax};

/// A larger file is refused before it is parsed.
pub const MOST_BYTES: usize = 1 << 20;

/// Reads one DAG file. `name` is the file as people know it; it is only shown.
///
/// # Errors
/// Every error of the file, by position. In a file whose syntax is broken, only what is certain besides.
pub fn load(name: &str, bytes: &[u8], registry: &Registry) -> Result<Dag, Vec<Diagnostic>> {
    let source = readable(name, bytes)?;
    let mut report = Report::new(name, source);
    let (root, syntax_errors) = DeTable::parse_recoverable(source);
    for error in &syntax_errors {
        let span = error.span().unwrap_or(0..0);
        let hint = syntax_hint(source, error.message(), &span);
        report.refuse(
            span,
            format!("invalid TOML: {}", error.message()),
            "",
            hint.map(str::to_owned),
        );
    }
    let dag = if syntax_errors.is_empty() {
        check(root.get_ref(), registry, &mut report)
    } else {
        check_what_is_certain(root.get_ref(), registry, &mut report);
        None
    };
    let diagnostics = report.into_sorted();
    match dag {
        Some(dag) if diagnostics.is_empty() => Ok(dag),
        Some(_) | None => Err(diagnostics),
    }
}

/// What to do about an error of syntax, where its place or its message tells.
fn syntax_hint(source: &str, message: &str, span: &Range<usize>) -> Option<&'static str> {
    if message.contains("duplicate key") {
        return Some("a key or table may stand once: remove one, or join the two");
    }
    // A bare word after the equals sign.
    let line_begins = source
        .get(..span.start)?
        .rfind('\n')
        .map_or(0, |end| end + 1);
    let (_, value) = source[line_begins..].lines().next()?.split_once('=')?;
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "false" => Some("write `true` or `false` in small letters"),
        word if word.starts_with(char::is_alphabetic) => Some("texts stand in double quotes"),
        _ => None,
    }
}

/// The DAG's id in a file that may be broken otherwise, so that its last good version can be named.
pub fn peek_id(bytes: &[u8]) -> Option<DagId> {
    let source = readable("", bytes).ok()?;
    let (root, _errors) = DeTable::parse_recoverable(source);
    DagId::new(id_value(root.get_ref())?.get_ref().as_str()?)
}

/// One good file, as [`check_unique`] compares it with the others.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// The file as people know it.
    pub file: &'a str,
    /// Its text.
    pub source: &'a str,
    /// The id of its DAG.
    pub dag_id: &'a DagId,
}

/// Finds ids that several files give to their DAG: one diagnostic for every file but the first, in the order given.
pub fn check_unique<'a>(files: impl IntoIterator<Item = Named<'a>>) -> Vec<Diagnostic> {
    let mut first_with: HashMap<&DagId, &str> = HashMap::new();
    let mut diagnostics = Vec::new();
    for named in files {
        let Some(first) = first_with.get(named.dag_id) else {
            first_with.insert(named.dag_id, named.file);
            continue;
        };
        let mut report = Report::new(named.file, named.source);
        let (root, _errors) = DeTable::parse_recoverable(named.source);
        report.refuse(
            id_value(root.get_ref()).map_or(0..0, Spanned::span),
            format!("the id `{}` is taken by {first}", named.dag_id),
            "every DAG needs an id of its own",
            Some("give one of the two another id, or remove it".to_owned()),
        );
        diagnostics.extend(report.into_sorted());
    }
    diagnostics
}

fn id_value<'t, 's>(root: &'t DeTable<'s>) -> Option<&'t Spanned<DeValue<'s>>> {
    root.get("dag")?.get_ref().as_table()?.get("id")
}

/// The text of a file, or why it is none.
fn readable<'b>(name: &str, bytes: &'b [u8]) -> Result<&'b str, Vec<Diagnostic>> {
    let refuse = |source: &str, place: usize, message: String, label: &str, hint: &str| {
        let mut report = Report::new(name, source);
        report.refuse(place..place, message, label, Some(hint.to_owned()));
        Err(report.into_sorted())
    };
    if bytes.len() > MOST_BYTES {
        let message = format!(
            "the file has {} bytes; at most {MOST_BYTES} (1 MiB) are allowed",
            bytes.len()
        );
        return refuse(
            "",
            0,
            message,
            "",
            "a DAG file describes tasks; keep data elsewhere and name it by a param",
        );
    }
    match std::str::from_utf8(bytes) {
        Ok(source) => Ok(source),
        Err(error) => {
            let offset = error.valid_up_to();
            let message = format!(
                "the file is not UTF-8: byte 0x{:02x} at offset {offset}",
                bytes[offset]
            );
            refuse(
                &String::from_utf8_lossy(bytes),
                offset,
                message,
                "not UTF-8",
                "save the file as UTF-8",
            )
        }
    }
}

fn check(root: &DeTable<'_>, registry: &Registry, report: &mut Report<'_>) -> Option<Dag> {
    table::refuse_nul_in(root, report);
    let draft = read::read(root, registry, Syntax::Whole, report)?;
    let graph = Graph::build(&draft.tasks, &draft.groups, report);
    references::check(&draft, &graph, report);
    if report.len() > 0 {
        return None;
    }
    let dag = assemble(draft, &graph);
    if dag.is_none() {
        // Whatever is missing has been noted above; a file must never be refused without a reason.
        report.refuse(0..0, "the file does not describe a DAG", "", None);
    }
    dag
}

/// What recovery from a syntax error left out or made up must not be reported, so only what stands in the file counts,
/// and nothing on a line whose syntax is broken.
fn check_what_is_certain(root: &DeTable<'_>, registry: &Registry, report: &mut Report<'_>) {
    let syntax_errors = report.len();
    let broken_lines = report.lines();
    let _incomplete = read::read(root, registry, Syntax::Broken, report);
    report.retain_after(syntax_errors, |diagnostic| {
        !broken_lines.contains(&diagnostic.line)
    });
}

fn assemble(draft: Draft<'_, '_>, graph: &Graph) -> Option<Dag> {
    let Header {
        id,
        description,
        schedule,
        datasets,
        start,
        end,
        catchup,
        catchup_window,
        jitter,
        overlap,
        max_active_runs,
        max_active_tasks,
        no_success_for,
        timeout,
    } = draft.header;
    let order = graph.order.as_ref()?;
    let mut ordinals = vec![0; order.len()];
    for (ordinal, index) in order.iter().enumerate() {
        ordinals[*index] = ordinal;
    }
    let mut drafts: Vec<Option<_>> = draft.tasks.into_iter().map(Some).collect();
    let mut tasks = Vec::with_capacity(order.len());
    for index in order {
        let draft = drafts[*index].take()?;
        let mut upstream: Vec<usize> = graph
            .upstream(*index)
            .map(|above| ordinals[above])
            .collect();
        upstream.sort_unstable();
        let concurrency = draft.policy.concurrency();
        tasks.push(Task {
            id: draft.task_id()?,
            kind: draft.kind?.name().to_owned(),
            upstream,
            downstream: Vec::new(),
            trigger_rule: draft.policy.trigger_rule,
            retries: draft.policy.retries,
            retry_delay: draft.policy.retry_delay,
            retry: draft.policy.retry,
            timeout: draft.policy.timeout,
            queue_timeout: draft.policy.queue_timeout,
            pool: draft.policy.pool,
            queue: draft.policy.queue,
            priority: draft.policy.priority,
            slots: draft.policy.slots,
            allow_failure: draft.policy.allow_failure,
            concurrency,
            flow: Flow {
                depends_on_previous: draft.policy.depends_on_previous,
                ..draft.flow.flow
            },
            outlets: draft.outlets,
            with: draft.with,
        });
    }
    let shapes: Vec<Shape> = tasks
        .iter()
        .map(|task: &Task| Shape {
            upstream: task.upstream.clone(),
            setup: task.flow.setup,
            teardown: task.flow.teardown,
        })
        .collect();
    for (task, setups) in tasks.iter_mut().zip(setups(&shapes)) {
        task.flow.setups = setups;
    }
    for ordinal in 0..tasks.len() {
        for above in tasks[ordinal].upstream.clone() {
            tasks[above].downstream.push(ordinal);
        }
    }
    Some(Dag {
        id: id?,
        description,
        schedule,
        datasets,
        start,
        end,
        catchup,
        catchup_window,
        jitter,
        overlap,
        max_active_runs: max_active_runs.unwrap_or(MAX_ACTIVE_RUNS),
        max_active_tasks,
        alerts: Alerts {
            no_success_for,
            deadlines: draft.deadlines,
            notify: draft.notify,
        },
        timeout,
        params: draft
            .params
            .into_iter()
            .map(|(name, param)| Some((name, param?)))
            .collect::<Option<_>>()?,
        groups: flow::named(draft.groups),
        tasks,
    })
}
