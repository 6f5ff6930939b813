//! Streams: what each reads, how far it is behind, which worker reads which partition, and what its windows hold.

use std::{cmp::Reverse, collections::BTreeMap};

use askama::Template;
use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};

use super::{Layout, regions_page};
use crate::{
    Stream, StreamDeadLetter, StreamWindow, StreamWorker, WebState,
    failure::Failure,
    format::{Badge, When, count, plain, shorten},
    live::{self, Html, Live, Region, Seen},
};

/// Groups shown of one window.
const GROUPS: usize = 15;

#[derive(Template)]
#[template(path = "streams.html")]
struct StreamsRegion {
    streams: Vec<Card>,
}

struct Card {
    stream: String,
    badge: Badge,
    problem: String,
    /// `topic pins → live.pins, cleaned by pins`.
    way: String,
    lag: String,
    rate: String,
    watermark: When,
    committed: When,
    events: i64,
    dead: i64,
    late: String,
    workers: Vec<WorkerLine>,
    partitions: Vec<PartitionLine>,
    windows: Vec<WindowTable>,
    dead_letters: Vec<DeadLine>,
}

struct WorkerLine {
    worker: String,
    badge: Badge,
    problem: String,
    partitions: String,
    rate: String,
    seen: When,
}

struct PartitionLine {
    partition: i32,
    worker: String,
    generation: i64,
    next_offset: i64,
    lag: String,
    watermark: When,
    idle: Option<When>,
    events: i64,
    dead: i64,
    late: i64,
}

/// One window of event time, or of the last events.
struct WindowTable {
    name: String,
    /// From and to; `None` is over the last events.
    span: Option<(When, When)>,
    state: &'static str,
    /// Whether a column is followed, so that mean and maximum are shown.
    follows: bool,
    groups: Vec<GroupLine>,
    more: usize,
}

struct GroupLine {
    group: String,
    events: i64,
    share: String,
    mean: String,
    maximum: String,
    errors: String,
}

struct DeadLine {
    place: String,
    at: When,
    rule: String,
    detail: String,
}

/// What the streams say, or a failure that says why not.
pub(crate) async fn read(state: &WebState) -> Result<Vec<Stream>, Failure> {
    let Some(streams) = &state.streams else {
        return Ok(Vec::new());
    };
    streams.streams().await.map_err(|reason| {
        tracing::warn!(reason, "the streams cannot be read: {reason}");
        Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The streams cannot be read",
        )
        .hint("see the log of the web role, and whether Postgres is there")
    })
}

/// `GET /streams`
pub(crate) async fn page(State(state): State<WebState>) -> Result<Response, Failure> {
    let live = Live::new("/streams/events", regions(state).await?);
    regions_page(Layout::new("streams", "Streams"), live)
}

/// `GET /streams/events`
pub(crate) async fn events(
    State(state): State<WebState>,
    Query(seen): Query<Seen>,
) -> Result<Response, Failure> {
    // No bell rings for streams.
    live::follow_each_second(&state.clone(), &seen, move || regions(state.clone()))
}

async fn regions(state: WebState) -> Result<Vec<Region>, Failure> {
    let streams = read(&state).await?;
    let region = StreamsRegion {
        streams: streams.into_iter().map(Card::new).collect(),
    };
    Ok(vec![Region {
        name: "streams",
        html: Html::of(&region)?,
    }])
}

impl Card {
    fn new(stream: Stream) -> Self {
        let kept = stream
            .table
            .as_ref()
            .map_or("windows alone".to_owned(), |table| format!("live.{table}"));
        let late = if stream.dropped == 0 {
            stream.late.to_string()
        } else {
            format!("{}, {} left out", stream.late, stream.dropped)
        };
        Self {
            badge: badge(&stream.state),
            problem: plain(stream.problem.as_deref().unwrap_or_default()),
            way: format!(
                "topic {} → {kept}, cleaned by {}",
                stream.topic, stream.dataset
            ),
            lag: behind(stream.lag),
            rate: rate(stream.events_per_second),
            watermark: When::relative(stream.watermark),
            committed: When::relative(stream.last_commit),
            events: stream.events,
            dead: stream.dead_letters,
            late,
            workers: stream.workers.iter().map(WorkerLine::from).collect(),
            partitions: stream
                .partitions
                .into_iter()
                .map(|partition| PartitionLine {
                    partition: partition.partition,
                    worker: partition.worker,
                    generation: partition.generation,
                    next_offset: partition.next_offset,
                    lag: behind(partition.lag),
                    watermark: When::relative(partition.watermark),
                    idle: partition
                        .idle_since
                        .map(|since| When::relative(Some(since))),
                    events: partition.events,
                    dead: partition.dead_letters,
                    late: partition.late,
                })
                .collect(),
            windows: window_tables(&stream.windows)
                .into_iter()
                .chain(top_tables(&stream.top))
                .collect(),
            dead_letters: stream
                .newest_dead_letters
                .iter()
                .map(DeadLine::from)
                .collect(),
            stream: stream.stream,
        }
    }
}

impl From<&StreamWorker> for WorkerLine {
    fn from(worker: &StreamWorker) -> Self {
        let partitions: Vec<String> = worker.partitions.iter().map(i32::to_string).collect();
        Self {
            worker: worker.worker.clone(),
            badge: badge(&worker.state),
            problem: plain(worker.problem.as_deref().unwrap_or_default()),
            partitions: partitions.join(", "),
            rate: rate(worker.events_per_second),
            seen: When::relative(Some(worker.updated_at)),
        }
    }
}

impl From<&StreamDeadLetter> for DeadLine {
    fn from(letter: &StreamDeadLetter) -> Self {
        Self {
            place: format!("{}:{}", letter.partition, letter.offset),
            at: When::relative(letter.at),
            rule: letter.rule.clone(),
            detail: shorten(&plain(&letter.detail), 200),
        }
    }
}

/// The newest window of each name.
fn window_tables(windows: &[StreamWindow]) -> Vec<WindowTable> {
    let mut by_name: BTreeMap<&str, Vec<&StreamWindow>> = BTreeMap::new();
    for window in windows {
        by_name.entry(&window.window).or_default().push(window);
    }
    by_name
        .into_iter()
        .filter_map(|(name, mut rows)| {
            let newest = rows.iter().map(|row| row.start).max()?;
            rows.retain(|row| row.start == newest);
            rows.sort_by_key(|row| (Reverse(row.events), row.group.clone()));
            let first = *rows.first()?;
            Some(WindowTable {
                name: name.to_owned(),
                span: Some((When::exact(Some(first.start)), When::exact(Some(first.end)))),
                state: if first.is_final { "closed" } else { "open" },
                follows: rows.iter().any(|row| row.mean.is_some()),
                more: rows.len().saturating_sub(GROUPS),
                groups: rows
                    .iter()
                    .take(GROUPS)
                    .map(|row| GroupLine {
                        group: row.group.clone(),
                        events: row.events,
                        share: row.share.map(percent).unwrap_or_default(),
                        mean: row
                            .mean
                            .map(|mean| format!("{mean:.0}"))
                            .unwrap_or_default(),
                        maximum: row.maximum.map(|most| most.to_string()).unwrap_or_default(),
                        errors: row.error_rate.map(percent).unwrap_or_default(),
                    })
                    .collect(),
            })
        })
        .collect()
}

fn top_tables(top: &[crate::StreamTop]) -> Vec<WindowTable> {
    let mut by_name: BTreeMap<&str, Vec<GroupLine>> = BTreeMap::new();
    for row in top {
        by_name.entry(&row.window).or_default().push(GroupLine {
            group: row.group.clone(),
            events: row.events,
            share: percent(row.share),
            mean: String::new(),
            maximum: String::new(),
            errors: String::new(),
        });
    }
    by_name
        .into_iter()
        .map(|(name, mut groups)| {
            let more = groups.len().saturating_sub(GROUPS);
            groups.truncate(GROUPS);
            WindowTable {
                name: name.to_owned(),
                span: None,
                state: "the last events",
                follows: false,
                groups,
                more,
            }
        })
        .collect()
}

fn badge(state: &str) -> Badge {
    match state {
        "starting" => Badge::new("queued", "starting"),
        "running" => Badge::new("running", "running"),
        "waiting" => Badge::new("waiting", "waiting"),
        "failed" => Badge::new("failed", "failed"),
        "stopped" => Badge::new("cancelled", "stopped"),
        "lost" => Badge::new("failed", "lost"),
        _ => Badge::new("waiting", "unknown"),
    }
}

fn behind(lag: Option<i64>) -> String {
    lag.map_or("not known".to_owned(), |lag| lag.to_string())
}

fn rate(events_per_second: f64) -> String {
    format!("{events_per_second:.0}/s")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

impl Card {
    fn workers_words(&self) -> String {
        count(self.workers.len(), "worker", "workers")
    }
}
