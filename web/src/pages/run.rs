//! One run: its graph with live states, its task instances with their times, and what can be done to it.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    response::Response,
};
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use pinwheel_scheduler::{
    model::{Dag, RunKind, RunState, TaskState},
    store::{InstanceRow, NoteRow, RunRow, Why},
};
use serde::Deserialize;

use super::{
    Layout, find_run, notifications, render, run_id,
    runs::address,
    view::{RunLine, task_address},
};
use crate::{
    WebState,
    failure::Failure,
    format::{Badge, Elapsed, When, inline, plain, pretty, shorten, task_badge},
    graph,
    live::{self, Html, Live, Region, Seen},
};

/// The width of the time line, in its own units.
const TIMELINE: f64 = 1000.0;
/// A bar is never thinner than this, so that short tasks can be seen and clicked.
const THINNEST: f64 = 4.0;

/// What the address may ask for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    done: Option<String>,
    #[serde(default)]
    groups: Groups,
}

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    layout: Layout,
    run: i64,
    regions: Vec<Region>,
}

#[derive(Template)]
#[template(path = "run_head.html")]
struct HeadRegion {
    run: RunLine,
    interval_start: When,
    interval_end: When,
    created: When,
    note: String,
    /// Why the first task that neither runs nor is over is where it is.
    stuck: Option<Stuck>,
    notes: Vec<Written>,
    progress: Vec<Share>,
    params: Vec<(String, String)>,
    can_cancel: bool,
    can_clear_failed: bool,
    can_clear: bool,
    can_mark: bool,
}

/// A task that neither runs nor is over.
struct Stuck {
    name: String,
    address: String,
    sentence: String,
}

/// A note beside a run or a task.
pub(crate) struct Written {
    /// Empty for the run itself.
    pub(crate) about: String,
    pub(crate) text: String,
    pub(crate) by: String,
    pub(crate) at: When,
}

impl Written {
    pub(crate) fn from(note: NoteRow) -> Self {
        Self {
            about: match (note.task_id, note.map_index) {
                (Some(task_id), Some(map_index)) if map_index >= 0 => {
                    format!("{task_id}[{map_index}]")
                }
                (Some(task_id), _) => task_id.to_string(),
                (None, _) => String::new(),
            },
            text: plain(&note.note),
            by: note.written_by,
            at: When::relative(Some(note.written_at)),
        }
    }
}

/// How many tasks stand in one state.
struct Share {
    badge: Badge,
    count: usize,
}

#[derive(Template)]
#[template(path = "graph.html")]
pub(crate) struct Graph {
    width: f64,
    height: f64,
    nodes: Vec<Node>,
    edges: Vec<graph::Edge>,
    /// Where the groups are shown the other way, and what that is; empty without groups.
    toggle: (&'static str, &'static str),
}
impl askama::filters::HtmlSafe for Graph {}

struct Node {
    x: f64,
    y: f64,
    name: String,
    /// The name as far as it fits into the box.
    short: String,
    kind: String,
    badge: Badge,
    /// Empty when there is no page to go to.
    address: String,
}

#[derive(Template)]
#[template(path = "run_tasks.html")]
struct TasksRegion {
    tasks: Vec<TaskLine>,
    from: When,
    length: Elapsed,
}

struct TaskLine {
    name: String,
    address: String,
    kind: String,
    badge: Badge,
    tries: i32,
    tries_allowed: i32,
    took: Elapsed,
    /// Why it waits, sleeps or failed.
    note: String,
    bar: Option<Bar>,
}

struct Bar {
    x: String,
    width: String,
    queued_x: String,
    queued_width: String,
}

/// `GET /runs/{run}`
pub(crate) async fn page(
    State(state): State<WebState>,
    Path(run): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    let row = find_run(&state, run_id(&run)?).await?;
    let id = row.run_id.0;
    let title = format!("{} · run {id}", row.dag_id);
    let address = match wanted.groups {
        Groups::Closed => format!("/runs/{id}/events"),
        Groups::Open => format!("/runs/{id}/events?groups=open"),
    };
    let live = Live::new(&address, regions(state, row, wanted.groups).await?);
    render(&RunPage {
        layout: Layout::new("runs", title)
            .live(&live)
            .done(wanted.done.as_deref()),
        run: id,
        regions: live.regions,
    })
}

/// `GET /runs/{run}/events`
pub(crate) async fn events(
    State(state): State<WebState>,
    Path(run): Path<String>,
    Query(seen): Query<Seen>,
) -> Result<Response, Failure> {
    let id = find_run(&state, run_id(&run)?).await?.run_id;
    let groups = seen.groups;
    live::follow(&state.clone(), &seen, move || {
        let state = state.clone();
        async move {
            let row = find_run(&state, id).await?;
            regions(state, row, groups).await
        }
    })
}

async fn regions(state: WebState, run: RunRow, groups: Groups) -> Result<Vec<Region>, Failure> {
    let instances = state.store.instances(run.run_id).await?;
    let definition = state.store.definition(run.version_id).await?;
    let graph = Graph::of_run(&definition, &instances, groups);
    let stuck = match run.state {
        RunState::Queued | RunState::Running => state.store.why_stuck(run.run_id).await?,
        RunState::Success | RunState::Failed | RunState::Cancelled => None,
    };
    let notes = state.store.notes(run.run_id).await?;
    let head = head(&run, &instances, stuck, notes);
    let tasks = timetable(&run, &definition, &instances, Utc::now());
    let deadlines = if definition.alerts.deadlines.is_empty() {
        None
    } else {
        notifications::of_run(&state.store.run_deadlines(run.run_id).await?)?
    };
    let mut regions = vec![Region {
        name: "head",
        html: Html::of(&head)?,
    }];
    if run.kind == RunKind::Dataset {
        regions.push(super::datasets::of_run(&state, run.run_id).await?);
    }
    regions.extend(deadlines);
    regions.extend([
        Region {
            name: "graph",
            html: Html::of(&graph)?,
        },
        Region {
            name: "tasks",
            html: Html::of(&tasks)?,
        },
    ]);
    Ok(regions)
}

fn head(
    run: &RunRow,
    instances: &[InstanceRow],
    stuck: Option<Why>,
    notes: Vec<NoteRow>,
) -> HeadRegion {
    let mut counts: BTreeMap<(TaskState, &str), (Badge, usize)> = BTreeMap::new();
    for instance in instances {
        let badge = task_badge(instance.state, instance.sleep_reason);
        counts
            .entry((instance.state, badge.word))
            .or_insert((badge, 0))
            .1 += 1;
    }
    let open = matches!(run.state, RunState::Queued | RunState::Running);
    let clearable = |instance: &InstanceRow| {
        matches!(
            instance.state,
            TaskState::Failed | TaskState::UpstreamFailed | TaskState::Cancelled
        )
    };
    HeadRegion {
        run: RunLine::from(run),
        interval_start: When::exact(Some(run.data_interval_start)),
        interval_end: When::exact(Some(run.data_interval_end)),
        created: When::relative(Some(run.created_at)),
        note: match run.state {
            RunState::Queued if stuck.is_none() => "It starts when the DAG is not paused and fewer than `max_active_runs` of its runs are running.".to_owned(),
            RunState::Cancelled if run.reason.is_some() => {
                format!("Cancelled: {}.", plain(run.reason.as_deref().unwrap_or_default()))
            }
            RunState::Queued | RunState::Running | RunState::Success | RunState::Failed | RunState::Cancelled => {
                plain(run.reason.as_deref().unwrap_or_default())
            }
        },
        stuck: stuck.map(|why| Stuck {
            address: address(
                &format!("/runs/{}/tasks/{}", run.run_id, why.task_id),
                &[("map", &if why.map_index < 0 { String::new() } else { why.map_index.to_string() })],
            ),
            name: why.task_id.to_string(),
            sentence: plain(&why.sentence),
        }),
        notes: notes.into_iter().map(Written::from).collect(),
        progress: counts.into_values().map(|(badge, count)| Share { badge, count }).collect(),
        params: run.params.iter().map(|(name, value)| (name.clone(), plain(&inline(value)))).collect(),
        can_cancel: open,
        can_clear_failed: instances.iter().any(clearable),
        can_clear: !open && !instances.is_empty(),
        can_mark: run.state != RunState::Queued,
    }
}

impl Graph {
    /// The graph of a DAG that no run gives states to.
    pub(crate) fn of_definition(dag: &Dag, groups: Groups) -> Self {
        Self::new(dag, groups, |_| {
            (TaskState::Waiting, Badge::new("task", ""), String::new())
        })
    }

    /// The graph of a run with the state of every task. A mapped task shows its least finished item.
    fn of_run(dag: &Dag, instances: &[InstanceRow], groups: Groups) -> Self {
        let mut by_ordinal: BTreeMap<i32, &InstanceRow> = BTreeMap::new();
        for instance in instances {
            let shown = by_ordinal.entry(instance.ordinal).or_insert(instance);
            if instance.state < shown.state {
                *shown = instance;
            }
        }
        Self::new(dag, groups, |ordinal| {
            let instance = i32::try_from(ordinal)
                .ok()
                .and_then(|ordinal| by_ordinal.get(&ordinal));
            match instance {
                Some(instance) => (
                    instance.state,
                    task_badge(instance.state, instance.sleep_reason),
                    task_address(instance),
                ),
                None => (
                    TaskState::Waiting,
                    Badge::new("waiting", "not made yet"),
                    String::new(),
                ),
            }
        })
    }

    fn new(dag: &Dag, groups: Groups, look: impl Fn(usize) -> (TaskState, Badge, String)) -> Self {
        let has_groups = dag.tasks.iter().any(|task| task.groups().next().is_some());
        let boxes = match groups {
            Groups::Closed if has_groups => grouped(dag),
            Groups::Closed | Groups::Open => None,
        };
        let is_closed = boxes.is_some();
        let boxes = boxes.unwrap_or_else(|| {
            dag.tasks
                .iter()
                .enumerate()
                .map(|(ordinal, task)| Boxed {
                    group: None,
                    tasks: vec![ordinal],
                    upstream: task.upstream.clone(),
                })
                .collect()
        });
        let upstream: Vec<Vec<usize>> = boxes.iter().map(|one| one.upstream.clone()).collect();
        let picture = graph::lay_out(&upstream);
        let nodes = boxes
            .iter()
            .zip(&picture.nodes)
            .filter_map(|(one, &(x, y))| {
                let (_, badge, address) = one
                    .tasks
                    .iter()
                    .map(|ordinal| look(*ordinal))
                    .min_by_key(|(state, _, _)| urgency(*state))?;
                let first = &dag.tasks[*one.tasks.first()?];
                let (name, kind, address) = match &one.group {
                    Some(group) => (
                        group.clone(),
                        format!("{} tasks", one.tasks.len()),
                        "?groups=open#graph".to_owned(),
                    ),
                    None => (first.id.to_string(), first.kind.clone(), address),
                };
                Some(Node {
                    x,
                    y,
                    short: shorten(&name, 20),
                    name,
                    kind: shorten(&kind, 16),
                    badge,
                    address,
                })
            })
            .collect();
        Self {
            width: picture.width,
            height: picture.height,
            nodes,
            edges: picture.edges,
            toggle: match (has_groups, is_closed) {
                (false, _) => ("", ""),
                (true, true) => ("?groups=open#graph", "Open the groups"),
                (true, false) => ("?groups=closed#graph", "Close the groups"),
            },
        }
    }
}

/// Whether a picture shows the groups of a DAG as one box each.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Groups {
    #[default]
    Closed,
    Open,
}

/// A box of a picture: a task, or a group.
struct Boxed {
    group: Option<String>,
    tasks: Vec<usize>,
    upstream: Vec<usize>,
}

/// The boxes of a DAG with every outermost group closed, in topological order; `None` where a group comes both before and
/// after something else, so that its box would stand in a circle.
fn grouped(dag: &Dag) -> Option<Vec<Boxed>> {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let mut boxes: Vec<Boxed> = Vec::new();
    let mut place_of = vec![0; dag.tasks.len()];
    for (ordinal, task) in dag.tasks.iter().enumerate() {
        let group = task.groups().next();
        let place = match group {
            Some(group) => *places.entry(group).or_insert(boxes.len()),
            None => boxes.len(),
        };
        if place == boxes.len() {
            boxes.push(Boxed {
                group: group.map(str::to_owned),
                tasks: Vec::new(),
                upstream: Vec::new(),
            });
        }
        boxes[place].tasks.push(ordinal);
        place_of[ordinal] = place;
    }
    let above: Vec<BTreeSet<usize>> = boxes
        .iter()
        .enumerate()
        .map(|(place, one)| {
            one.tasks
                .iter()
                .flat_map(|ordinal| &dag.tasks[*ordinal].upstream)
                .map(|above| place_of[*above])
                .filter(|above| *above != place)
                .collect()
        })
        .collect();
    let mut order: Vec<usize> = Vec::with_capacity(boxes.len());
    let mut new_place = vec![usize::MAX; boxes.len()];
    while order.len() < boxes.len() {
        let before = order.len();
        for place in 0..boxes.len() {
            let is_next = new_place[place] == usize::MAX
                && above[place].iter().all(|one| new_place[*one] != usize::MAX);
            if is_next {
                new_place[place] = order.len();
                order.push(place);
            }
        }
        if order.len() == before {
            return None;
        }
    }
    let mut old: Vec<Option<Boxed>> = boxes.into_iter().map(Some).collect();
    order
        .iter()
        .map(|place| {
            let mut one = old[*place].take()?;
            one.upstream = above[*place]
                .iter()
                .map(|above| new_place[*above])
                .collect();
            one.upstream.sort_unstable();
            Some(one)
        })
        .collect()
}

/// Of several tasks in one box the most urgent is shown.
fn urgency(state: TaskState) -> usize {
    match state {
        TaskState::Failed => 0,
        TaskState::UpstreamFailed => 1,
        TaskState::Running => 2,
        TaskState::Sleeping => 3,
        TaskState::Queued => 4,
        TaskState::Waiting => 5,
        TaskState::Cancelled => 6,
        TaskState::Success => 7,
        TaskState::Skipped => 8,
    }
}

/// Of a mapped task with more items those that need somebody are listed, and the others are counted.
const MOST_ITEMS: usize = 30;

fn timetable(
    run: &RunRow,
    dag: &Dag,
    instances: &[InstanceRow],
    now: DateTime<Utc>,
) -> TasksRegion {
    let first = instances
        .iter()
        .filter_map(|instance| instance.queued_at.or(instance.started_at))
        .min();
    let from = first.or(run.started_at).unwrap_or(run.created_at);
    // Whole seconds, so that the page does not differ from itself for nothing.
    let now = now.duration_trunc(TimeDelta::seconds(1)).unwrap_or(now) + TimeDelta::seconds(1);
    let last = instances
        .iter()
        .filter_map(|instance| instance.finished_at)
        .max();
    let until = run
        .finished_at
        .into_iter()
        .chain(last)
        .max()
        .filter(|_| run.finished_at.is_some())
        .unwrap_or(now);
    let axis = Axis {
        from,
        span: (until - from).num_milliseconds().max(1) as f64,
    };
    let mut items: BTreeMap<i32, usize> = BTreeMap::new();
    for instance in instances {
        *items.entry(instance.ordinal).or_default() += 1;
    }
    let mut tasks = Vec::new();
    let mut listed: BTreeMap<i32, usize> = BTreeMap::new();
    let mut left_out: BTreeMap<i32, BTreeMap<&'static str, usize>> = BTreeMap::new();
    for (position, instance) in instances.iter().enumerate() {
        let count = items.get(&instance.ordinal).copied().unwrap_or(0);
        let shown = listed.entry(instance.ordinal).or_default();
        let is_quiet = matches!(
            instance.state,
            TaskState::Success | TaskState::Skipped | TaskState::Queued | TaskState::Waiting
        );
        if count > MOST_ITEMS && (is_quiet || *shown >= MOST_ITEMS) {
            let states = left_out.entry(instance.ordinal).or_default();
            *states.entry(instance.state.label()).or_default() += 1;
        } else {
            *shown += 1;
            tasks.push(TaskLine {
                name: name(instance),
                address: task_address(instance),
                kind: instance.kind.clone(),
                badge: task_badge(instance.state, instance.sleep_reason),
                tries: instance.tries,
                tries_allowed: instance.tries_allowed,
                took: took(instance),
                note: why(run, dag, instances, instance),
                bar: bar(instance, &axis, until),
            });
        }
        let is_last = instances
            .get(position + 1)
            .is_none_or(|next| next.ordinal != instance.ordinal);
        if let (true, Some(states)) = (is_last, left_out.remove(&instance.ordinal)) {
            let counts: Vec<String> = states
                .iter()
                .map(|(state, count)| format!("{count} {state}"))
                .collect();
            tasks.push(TaskLine {
                name: format!(
                    "{}: {} more items",
                    instance.task_id,
                    states.values().sum::<usize>()
                ),
                address: task_address(instance),
                kind: instance.kind.clone(),
                badge: Badge::new("task", ""),
                tries: 0,
                tries_allowed: 0,
                took: Elapsed::between(None, None),
                note: counts.join(", "),
                bar: None,
            });
        }
    }
    TasksRegion {
        tasks,
        from: When::exact(Some(from)),
        length: Elapsed::between(Some(from), run.finished_at),
    }
}

/// The task's id, with the name or the index of a mapped item.
pub(crate) fn name(instance: &InstanceRow) -> String {
    match (&instance.item_name, instance.map_index) {
        (Some(name), 0..) => format!("{}[{}]", instance.task_id, plain(name)),
        (None, 0..) => reference(instance),
        (_, _) => instance.task_id.to_string(),
    }
}

/// The task's id, with the index of a mapped item.
pub(crate) fn reference(instance: &InstanceRow) -> String {
    if instance.map_index < 0 {
        instance.task_id.to_string()
    } else {
        format!("{}[{}]", instance.task_id, instance.map_index)
    }
}

/// How long the newest try took or takes; a task that waits for its next try takes no time.
pub(crate) fn took(instance: &InstanceRow) -> Elapsed {
    match instance.state {
        TaskState::Running => Elapsed::between(instance.started_at, None),
        TaskState::Waiting | TaskState::Queued | TaskState::Sleeping => {
            Elapsed::between(None, None)
        }
        _ => Elapsed::between(
            instance
                .started_at
                .filter(|_| instance.finished_at.is_some()),
            instance.finished_at,
        ),
    }
}

/// Why a task instance is where it is, in words; empty when its state says it all.
pub(crate) fn why(
    run: &RunRow,
    dag: &Dag,
    instances: &[InstanceRow],
    instance: &InstanceRow,
) -> String {
    let upstream = usize::try_from(instance.ordinal)
        .ok()
        .and_then(|ordinal| dag.tasks.get(ordinal));
    let above = |chosen: &dyn Fn(TaskState) -> bool| {
        let mut names: Vec<String> = upstream
            .iter()
            .flat_map(|task| &task.upstream)
            .flat_map(|&up| {
                instances
                    .iter()
                    .filter(move |other| usize::try_from(other.ordinal) == Ok(up))
            })
            .filter(|other| chosen(other.state))
            .map(|other| {
                format!(
                    "{} ({})",
                    name(other),
                    task_badge(other.state, other.sleep_reason).word
                )
            })
            .collect();
        let more = names.len().saturating_sub(4);
        names.truncate(4);
        if more > 0 {
            names.push(format!("{more} more"));
        }
        names.join(", ")
    };
    match instance.state {
        TaskState::Waiting => match run.state {
            RunState::Queued => "the run has not started".to_owned(),
            _ => {
                let names = above(&|state| {
                    matches!(
                        state,
                        TaskState::Waiting
                            | TaskState::Queued
                            | TaskState::Running
                            | TaskState::Sleeping
                    )
                });
                if names.is_empty() {
                    "it is decided in a moment".to_owned()
                } else {
                    format!("waits for {names}")
                }
            }
        },
        TaskState::Queued => match upstream {
            Some(task) => format!(
                "waits for a worker of queue {} and {} of pool {}",
                task.queue,
                crate::format::count(task.slots as usize, "slot", "slots"),
                task.pool
            ),
            None => "waits for a worker".to_owned(),
        },
        TaskState::Sleeping => instance
            .sleep_note
            .clone()
            .or_else(|| instance.reason.clone())
            .unwrap_or_default(),
        TaskState::Running => instance
            .worker
            .as_ref()
            .map(|worker| format!("on {worker}"))
            .unwrap_or_default(),
        TaskState::UpstreamFailed | TaskState::Skipped => match &instance.reason {
            Some(reason) => reason.clone(),
            None => {
                let names = above(&|state| {
                    matches!(
                        state,
                        TaskState::Failed
                            | TaskState::UpstreamFailed
                            | TaskState::Skipped
                            | TaskState::Cancelled
                    )
                });
                if names.is_empty() {
                    String::new()
                } else {
                    format!("because of {names}")
                }
            }
        },
        TaskState::Failed => plain(instance.reason.as_deref().unwrap_or_default()),
        TaskState::Success | TaskState::Cancelled => String::new(),
    }
}

struct Axis {
    from: DateTime<Utc>,
    span: f64,
}

impl Axis {
    fn x(&self, at: DateTime<Utc>) -> f64 {
        ((at - self.from).num_milliseconds() as f64 / self.span).clamp(0.0, 1.0) * TIMELINE
    }
}

fn bar(instance: &InstanceRow, axis: &Axis, until: DateTime<Utc>) -> Option<Bar> {
    let started = instance.started_at?;
    let running = instance.state == TaskState::Running;
    let ended = if running {
        until
    } else {
        instance.finished_at?
    };
    let left = axis.x(started).min(TIMELINE - THINNEST);
    let width = (axis.x(ended) - left).max(THINNEST);
    let queued = instance
        .queued_at
        .filter(|queued| *queued < started)
        .map_or(left, |queued| axis.x(queued).min(left));
    let number = |value: f64| format!("{value:.1}");
    Some(Bar {
        x: number(left),
        width: number(width),
        queued_x: number(queued),
        queued_width: number(left - queued),
    })
}

/// JSON in a page: pretty, or the word for nothing.
pub(crate) fn json_block(value: Option<&serde_json::Value>) -> String {
    value.map(pretty).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    fn html(template: &impl Template) -> String {
        template.render().expect("the template renders")
    }

    #[test]
    fn a_run_with_a_task_in_every_state_reads_well() {
        let now = samples::noon() + TimeDelta::seconds(30);
        let (run, dag, instances) = (samples::run(), samples::dag(), samples::instances());
        insta::assert_snapshot!("run_head", html(&head(&run, &instances, None, Vec::new())));
        insta::assert_snapshot!("run_tasks", html(&timetable(&run, &dag, &instances, now)));
        insta::assert_snapshot!(
            "run_graph",
            html(&Graph::of_run(&dag, &instances, Groups::Closed))
        );
    }

    #[test]
    fn hostile_text_is_escaped() {
        let (run, dag, instances) = (samples::run(), samples::dag(), samples::instances());
        let page = html(&head(&run, &instances, None, Vec::new()))
            + &html(&timetable(&run, &dag, &instances, samples::noon()));
        for markup in ["<script>", "<img", "<b>"] {
            assert!(!page.contains(markup), "{markup} reached the page");
        }
    }

    #[test]
    fn why_names_what_is_waited_for() {
        let (run, dag, instances) = (samples::run(), samples::dag(), samples::instances());
        let why = |index: usize| why(&run, &dag, &instances, &instances[index]);
        assert_eq!(why(9), "waits for clean (running), check (queued)");
        assert_eq!(
            why(2),
            "waits for a worker of queue default and 1 slot of pool default"
        );
        assert_eq!(why(3), "waits 10 min");
        assert_eq!(why(1), "on host-1");
    }

    #[test]
    fn bars_stay_on_the_time_line() {
        let (run, dag, instances) = (samples::run(), samples::dag(), samples::instances());
        let now = samples::noon() + TimeDelta::seconds(3600);
        for line in timetable(&run, &dag, &instances, now).tasks {
            if let Some(bar) = line.bar {
                let number = |text: &str| text.parse::<f64>().expect("a number");
                assert!(number(&bar.x) + number(&bar.width) <= TIMELINE + THINNEST);
                assert!(number(&bar.queued_x) <= number(&bar.x) && number(&bar.width) >= THINNEST);
            }
        }
    }
}
