//! One task instance: its tries, its log as it is written, what its templates became, and what it answered.

use std::convert::Infallible;

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    http::HeaderMap,
    response::{Response, sse::Event},
};
use futures::stream;
use pinwheel_scheduler::{
    model::{InstanceId, RunId, RunState, TaskId, TaskState},
    store::{InstanceRow, LogPosition, LogRow, RunRow},
};
use serde::Deserialize;

use super::{
    Layout, find_run, render,
    run::{Written, json_block, name, reference, took},
    run_id,
    runs::address,
    task_id,
};
use crate::{
    WebState,
    failure::Failure,
    format::{Badge, Elapsed, When, plain, task_badge, try_badge},
    live::{self, Connection, Html, Region},
};

/// Lines in the page as it is first loaded, and at most in one event after it.
const LINES: i64 = 500;

/// What the address may ask for.
#[derive(Debug, Default, Clone, Deserialize)]
pub(crate) struct Wanted {
    /// The item of a mapped task.
    map: Option<i32>,
    /// Only the log of this try.
    #[serde(rename = "try")]
    try_number: Option<i32>,
    /// Log lines after this place: `epoch.line`.
    #[serde(default)]
    after: String,
    done: Option<String>,
}

#[derive(Template)]
#[template(path = "task.html")]
struct TaskPage {
    layout: Layout,
    task: String,
    /// What the address calls it.
    task_id: String,
    run: i64,
    map: String,
    regions: Vec<Region>,
    log: Html,
    /// The stream of further lines.
    log_address: String,
    /// The next lines, without a script; empty when these are the last.
    more: String,
    text_address: String,
    no_lines: bool,
}

#[derive(Template)]
#[template(path = "task_head.html")]
struct HeadRegion {
    dag: String,
    run: i64,
    task: String,
    kind: String,
    /// What the address calls it: without the index of a mapped item.
    task_id: String,
    /// What a clear calls it: with the index of a mapped item.
    cleared: String,
    /// The index of a mapped item, which is marked by itself.
    map: Option<i32>,
    badge: Badge,
    wake: When,
    sleeps: bool,
    queued: When,
    started: When,
    took: Elapsed,
    tries: i32,
    tries_allowed: i32,
    rule: String,
    worker: String,
    reason: String,
    hint: String,
    can_clear: bool,
    can_mark_success: bool,
    can_mark_failed: bool,
    notes: Vec<Written>,
    with: String,
}

#[derive(Template)]
#[template(path = "task_side.html")]
struct SideRegion {
    tries: Vec<TryLine>,
    rendered: String,
    output: String,
    /// The try it is of, when it is not the last success.
    output_of: String,
}

struct TryLine {
    number: i32,
    address: String,
    chosen: bool,
    badge: Badge,
    worker: String,
    started: When,
    took: Elapsed,
    reason: String,
    exit_code: String,
}

#[derive(Template)]
#[template(path = "log_lines.html")]
struct LogLines {
    lines: Vec<LogLine>,
}

struct LogLine {
    time: String,
    machine: String,
    stream: &'static str,
    text: String,
    /// The first line of a try says so.
    heading: String,
}

/// `GET /runs/{run}/tasks/{task}`
pub(crate) async fn page(
    State(state): State<WebState>,
    Path((run, task)): Path<(String, String)>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    let (run, task) = (run_id(&run)?, task_id(&task)?);
    let instance = find(&state, run, &task, wanted.map).await?;
    let live_regions = regions(&state, run, &task, &wanted).await?;
    let start = first_position(&state, instance.instance_id, &wanted).await?;
    let lines = state.store.log(instance.instance_id, start, LINES).await?;
    let full = lines.len() as i64 == LINES;
    let end = lines.last().map_or(start, |line| line.position);
    let lines = of_try(lines, wanted.try_number);
    let here = format!("/runs/{run}/tasks/{task}");
    let map = wanted.map.map(|map| map.to_string()).unwrap_or_default();
    let try_number = wanted
        .try_number
        .map(|number| number.to_string())
        .unwrap_or_default();
    let place = format!("{}.{}", end.epoch, end.line);
    let query = [
        ("map", map.as_str()),
        ("try", &try_number),
        ("after", &place),
    ];
    let page = TaskPage {
        layout: Layout::new("runs", format!("{} · run {run}", name(&instance)))
            .done(wanted.done.as_deref()),
        task: name(&instance),
        task_id: task.to_string(),
        run: run.0,
        map: map.clone(),
        regions: live_regions,
        no_lines: lines.is_empty(),
        log: Html::of(&log_lines(lines, None))?,
        log_address: address(&format!("{here}/events"), &query),
        more: if full {
            address(&here, &query)
        } else {
            String::new()
        },
        text_address: address(&format!("/api/v1{here}/log"), &query[..2]),
    };
    render(&page)
}

/// `GET /runs/{run}/tasks/{task}/events`: what changed about the task, and the new lines of its log.
pub(crate) async fn events(
    State(state): State<WebState>,
    Path((run, task)): Path<(String, String)>,
    Query(mut wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (run, task) = (run_id(&run)?, task_id(&task)?);
    let instance = find(&state, run, &task, wanted.map).await?.instance_id;
    // A browser that reconnects says how far it got.
    if let Some(last) = headers
        .get("last-event-id")
        .and_then(|last| last.to_str().ok())
    {
        last.clone_into(&mut wanted.after);
    }
    let tail = Tail {
        position: first_position(&state, instance, &wanted).await?,
        connection: Connection::open(&state)?,
        state,
        run,
        task,
        instance,
        wanted,
        last_try: None,
        last_regions: Vec::new(),
        hurry: false,
    };
    Ok(live::answer(stream::unfold(tail, |mut tail| async move {
        loop {
            if !tail.hurry && !tail.connection.wait().await {
                return None;
            }
            let event = match tail.look().await {
                Ok(event) => event,
                Err(failure) => {
                    tail.hurry = false;
                    Some(
                        Event::default()
                            .event("trouble")
                            .data(failure.problem().title.replace(['\r', '\n'], " ")),
                    )
                }
            };
            if let Some(event) = event {
                return Some((Ok::<_, Infallible>(event), tail));
            }
        }
    })))
}

/// A live connection to one task instance.
struct Tail {
    state: WebState,
    connection: Connection,
    run: RunId,
    task: TaskId,
    instance: InstanceId,
    wanted: Wanted,
    position: LogPosition,
    last_try: Option<i32>,
    last_regions: Vec<Region>,
    /// There are more lines than fit into one event: look again at once.
    hurry: bool,
}

impl Tail {
    async fn look(&mut self) -> Result<Option<Event>, Failure> {
        // The state is read before the log: a task that is shown as ended has no lines that are not shown.
        let regions = regions(&self.state, self.run, &self.task, &self.wanted).await?;
        let lines = self
            .state
            .store
            .log(self.instance, self.position, LINES)
            .await?;
        self.hurry = lines.len() as i64 == LINES;
        if let Some(last) = lines.last() {
            self.position = last.position;
        }
        let lines = of_try(lines, self.wanted.try_number);
        let mut changed = serde_json::Map::new();
        for region in &regions {
            if !self.last_regions.contains(region) {
                changed.insert(region.name.to_owned(), region.html.as_str().into());
            }
        }
        self.last_regions = regions;
        let last_try = lines.last().map(|line| line.try_number);
        let log = if lines.is_empty() {
            String::new()
        } else {
            Html::of(&log_lines(lines, self.last_try))?.to_string()
        };
        self.last_try = last_try.or(self.last_try);
        if changed.is_empty() && log.is_empty() {
            return Ok(None);
        }
        let data = serde_json::json!({ "regions": changed, "log": log });
        let place = format!("{}.{}", self.position.epoch, self.position.line);
        Ok(Some(
            Event::default()
                .event("task")
                .id(place)
                .data(data.to_string()),
        ))
    }
}

/// The instance of a task in a run.
pub(crate) async fn find(
    state: &WebState,
    run: RunId,
    task: &TaskId,
    map: Option<i32>,
) -> Result<InstanceRow, Failure> {
    let map = map.unwrap_or(-1);
    let mut instances = state.store.instances(run).await?.into_iter();
    match instances.find(|instance| instance.task_id == *task && instance.map_index == map) {
        Some(instance) => Ok(instance),
        None => {
            find_run(state, run).await?;
            Err(Failure::missing("task", task)
                .hint(format!("the page of run {run} lists its tasks")))
        }
    }
}

async fn regions(
    state: &WebState,
    run: RunId,
    task: &TaskId,
    wanted: &Wanted,
) -> Result<Vec<Region>, Failure> {
    let row = find_run(state, run).await?;
    let instances = state.store.instances(run).await?;
    let map = wanted.map.unwrap_or(-1);
    let instance = instances
        .iter()
        .find(|instance| instance.task_id == *task && instance.map_index == map)
        .ok_or_else(|| Failure::missing("task", task))?;
    let tries = state.store.tries(instance.instance_id).await?;
    let head = head(state, &row, instance).await?;
    let shown = wanted.try_number.unwrap_or(instance.tries.max(1));
    let rendered = state.store.rendered(instance.instance_id, shown).await?;
    let output = match wanted.try_number {
        Some(number) => {
            state
                .store
                .output_of_try(instance.instance_id, number)
                .await?
        }
        None => state.store.output(instance.instance_id).await?,
    };
    let here = format!("/runs/{run}/tasks/{task}");
    let map = wanted.map.map(|map| map.to_string()).unwrap_or_default();
    let side = SideRegion {
        tries: tries
            .iter()
            .rev()
            .map(|ended| TryLine {
                number: ended.try_number,
                address: address(
                    &here,
                    &[("map", &map), ("try", &ended.try_number.to_string())],
                ),
                chosen: wanted.try_number == Some(ended.try_number),
                badge: try_badge(ended.outcome),
                worker: ended.worker.clone(),
                started: When::relative(Some(ended.started_at)),
                took: Elapsed::between(Some(ended.started_at), Some(ended.finished_at)),
                reason: plain(ended.reason.as_deref().unwrap_or_default()),
                exit_code: ended
                    .exit_code
                    .map(|code| format!("exit code {code}"))
                    .unwrap_or_default(),
            })
            .collect(),
        rendered: json_block(rendered.as_ref()),
        output: json_block(output.as_ref()),
        output_of: wanted
            .try_number
            .map(|number| format!("try {number}"))
            .unwrap_or_default(),
    };
    Ok(vec![
        Region {
            name: "head",
            html: Html::of(&head)?,
        },
        Region {
            name: "side",
            html: Html::of(&side)?,
        },
    ])
}

async fn head(
    state: &WebState,
    run: &RunRow,
    instance: &InstanceRow,
) -> Result<HeadRegion, Failure> {
    let definition = state.store.definition(run.version_id).await?;
    let task = definition
        .task(instance.task_id.as_str())
        .map(|(_, task)| task);
    let because = state
        .store
        .why(run.run_id, &instance.task_id, instance.map_index)
        .await?;
    let says_it_all = matches!(instance.state, TaskState::Success | TaskState::Running);
    let (reason, hint) = if says_it_all {
        (String::new(), String::new())
    } else {
        (because.sentence, because.hint.unwrap_or_default())
    };
    let notes = state.store.notes(run.run_id).await?;
    let has_begun = run.state != RunState::Queued;
    Ok(HeadRegion {
        dag: run.dag_id.to_string(),
        run: run.run_id.0,
        task: name(instance),
        kind: instance.kind.clone(),
        task_id: instance.task_id.to_string(),
        cleared: reference(instance),
        map: (instance.map_index >= 0).then_some(instance.map_index),
        badge: task_badge(instance.state, instance.sleep_reason),
        wake: When::relative(instance.wake_at),
        sleeps: instance.state == TaskState::Sleeping,
        queued: When::relative(instance.queued_at),
        started: When::relative(instance.started_at),
        took: took(instance),
        tries: instance.tries,
        tries_allowed: instance.tries_allowed,
        rule: task
            .map(|task| task.trigger_rule.to_string())
            .unwrap_or_default(),
        worker: instance.worker.clone().unwrap_or_default(),
        reason: plain(&reason),
        hint: plain(&hint),
        can_clear: matches!(
            instance.state,
            TaskState::Success
                | TaskState::Failed
                | TaskState::Skipped
                | TaskState::UpstreamFailed
                | TaskState::Cancelled
        ),
        can_mark_success: has_begun && instance.state != TaskState::Success,
        can_mark_failed: has_begun && instance.state != TaskState::Failed,
        notes: notes
            .into_iter()
            .filter(|note| {
                note.task_id.as_ref() == Some(&instance.task_id)
                    && note.map_index == Some(instance.map_index)
            })
            .map(Written::from)
            .collect(),
        with: task
            .map(|task| json_block(Some(&serde_json::Value::Object(task.with.clone()))))
            .unwrap_or_default(),
    })
}

/// Where the log begins that the address asks for.
async fn first_position(
    state: &WebState,
    instance: InstanceId,
    wanted: &Wanted,
) -> Result<LogPosition, Failure> {
    if let Some((epoch, line)) = wanted.after.split_once('.')
        && let (Ok(epoch), Ok(line)) = (epoch.parse(), line.parse())
    {
        return Ok(LogPosition { epoch, line });
    }
    let Some(number) = wanted.try_number else {
        return Ok(LogPosition::default());
    };
    // A try's executions have epochs of their own, so everything before its first one can be passed over. The try that
    // runs now has not ended: it begins after all those that did.
    let tries = state.store.tries(instance).await?;
    let before = tries
        .iter()
        .filter(|ended| ended.try_number < number)
        .map(|ended| ended.epoch)
        .max();
    Ok(before.map_or(LogPosition::default(), |epoch| LogPosition {
        epoch,
        line: i32::MAX,
    }))
}

fn of_try(lines: Vec<LogRow>, number: Option<i32>) -> Vec<LogRow> {
    match number {
        Some(number) => lines
            .into_iter()
            .filter(|line| line.try_number == number)
            .collect(),
        None => lines,
    }
}

fn log_lines(lines: Vec<LogRow>, mut last_try: Option<i32>) -> LogLines {
    let lines = lines
        .into_iter()
        .map(|line| {
            let new_try = last_try.replace(line.try_number) != Some(line.try_number);
            LogLine {
                time: line.at.format("%H:%M:%S%.3f").to_string(),
                machine: line.at.to_rfc3339(),
                stream: match line.stream.as_str() {
                    "stderr" => "stderr",
                    "task" => "task",
                    _ => "stdout",
                },
                text: plain(&line.message),
                heading: if new_try {
                    format!("try {}", line.try_number)
                } else {
                    String::new()
                },
            }
        })
        .collect();
    LogLines { lines }
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    fn line(number: i32, try_number: i32, stream: &str, message: &str) -> LogRow {
        LogRow {
            position: LogPosition {
                epoch: try_number,
                line: number,
            },
            try_number,
            at: samples::noon(),
            stream: stream.to_owned(),
            message: message.to_owned(),
        }
    }

    #[test]
    fn log_lines_are_escaped_and_tries_are_marked() {
        let lines = vec![
            line(1, 1, "task", "begin"),
            line(
                2,
                1,
                "stdout",
                "<script>alert('x')</script> \u{1b}[31mred\u{1b}[0m & \"more\"",
            ),
            line(1, 2, "stderr", "again"),
        ];
        insta::assert_snapshot!(
            "log_lines",
            log_lines(lines, Some(1))
                .render()
                .expect("the template renders")
        );
    }

    #[test]
    fn a_try_can_be_read_alone() {
        let lines = vec![line(1, 1, "task", "a"), line(1, 2, "task", "b")];
        let of = |number| of_try(lines.clone(), number).len();
        assert_eq!((of(None), of(Some(2)), of(Some(3))), (2, 1, 0));
    }
}
