//! Notifications: the channels, the last messages, and what became of them. Also what other pages show of it.

use std::fmt::Write as _;

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    response::{Redirect, Response},
};
use pinwheel_scheduler::{
    model::{Alerts, DagId, Event},
    store::{ChannelRow, DeadlineRow, HealthRow, MessageFilter, MessageRow, MessageState},
};
use serde::Deserialize;

use super::{
    Layout,
    actions::{ACTOR, ring},
    regions_page,
};
use crate::{
    WebState,
    failure::Failure,
    format::{Badge, When, count},
    live::{self, Html, Live, Region, Seen},
};

/// How many messages the page shows.
const MESSAGES: i64 = 100;

/// What the address may ask for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    done: Option<String>,
}

#[derive(Template)]
#[template(path = "notifications.html")]
struct NotificationsRegion {
    headline: String,
    channels: Vec<ChannelLine>,
    messages: Vec<MessageLine>,
}

struct ChannelLine {
    channel: String,
    kind: String,
    target: String,
    badge: Badge,
    waiting: i64,
    delivered: Option<When>,
    trouble: String,
}

impl From<&ChannelRow> for ChannelLine {
    fn from(row: &ChannelRow) -> Self {
        let badge = match (row.failing, &row.kind) {
            (true, _) => Badge::new("failed", "failing"),
            (false, Some(_)) => Badge::new("success", "good"),
            (false, None) => Badge::new("failed", "unknown"),
        };
        Self {
            channel: row.channel.clone(),
            kind: row
                .kind
                .clone()
                .unwrap_or_else(|| "not in the settings".to_owned()),
            target: row.target.clone(),
            badge,
            waiting: row.waiting,
            delivered: row.delivered_at.map(|at| When::relative(Some(at))),
            trouble: row
                .last_error
                .clone()
                .filter(|_| row.failing)
                .unwrap_or_default(),
        }
    }
}

struct MessageLine {
    message: i64,
    made: When,
    event: Event,
    dag: String,
    run: Option<i64>,
    what: String,
    channel: String,
    badge: Badge,
    attempts: i32,
    next: Option<When>,
    trouble: String,
    can_retry: bool,
}

impl From<&MessageRow> for MessageLine {
    fn from(row: &MessageRow) -> Self {
        let state = row.state();
        let (badge, can_retry) = match state {
            MessageState::Waiting => (Badge::new("queued", state.words()), false),
            MessageState::Failing => (Badge::new("sleeping", state.words()), true),
            MessageState::Delivered => (Badge::new("success", state.words()), false),
            MessageState::GivenUp => (Badge::new("failed", state.words()), true),
        };
        let mut what = String::new();
        let text = |key: &str| row.detail[key].as_str();
        if let Some(task) = text("task") {
            let _infallible = write!(what, "task {task}");
        }
        if let Some(deadline) = text("deadline") {
            let _infallible = write!(what, " {deadline}");
        }
        if row.count > 1 {
            let _infallible = write!(what, " and {} more", row.count - 1);
        }
        Self {
            message: row.message_id.0,
            made: When::relative(Some(row.made_at)),
            event: row.event,
            dag: row.dag_id.to_string(),
            run: row.run_id.map(|run| run.0),
            what: what.trim().to_owned(),
            channel: row.channel.clone(),
            badge,
            attempts: row.attempts,
            next: row
                .next_at
                .filter(|_| state == MessageState::Failing)
                .map(|at| When::relative(Some(at))),
            trouble: row.last_error.clone().unwrap_or_default(),
            can_retry,
        }
    }
}

/// `GET /notifications`
pub(crate) async fn page(
    State(state): State<WebState>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    let live = Live::new("/notifications/events", regions(state).await?);
    let layout = Layout::new("notifications", "Notifications").done(wanted.done.as_deref());
    regions_page(layout, live)
}

/// `GET /notifications/events`
pub(crate) async fn events(
    State(state): State<WebState>,
    Query(seen): Query<Seen>,
) -> Result<Response, Failure> {
    live::follow(&state.clone(), &seen, move || regions(state.clone()))
}

/// `POST /notifications/{message}/retry`
pub(crate) async fn retry(
    State(state): State<WebState>,
    Path(message): Path<String>,
) -> Result<Redirect, Failure> {
    let id = message
        .parse()
        .map_err(|_| Failure::missing("message", &message))?;
    state.store.retry_message(id, ACTOR).await?;
    ring(&state.store).await;
    Ok(Redirect::to("/notifications?done=message_retried"))
}

async fn regions(state: WebState) -> Result<Vec<Region>, Failure> {
    let channels = state.store.channels().await?;
    let filter = MessageFilter {
        limit: MESSAGES,
        ..MessageFilter::default()
    };
    let messages = state.store.messages(&filter).await?;
    let region = NotificationsRegion {
        headline: count(channels.len(), "channel", "channels"),
        channels: channels.iter().map(ChannelLine::from).collect(),
        messages: messages.iter().map(MessageLine::from).collect(),
    };
    Ok(vec![Region {
        name: "notifications",
        html: Html::of(&region)?,
    }])
}

/// A channel that does not work, for the banner of the first page.
pub(crate) struct FailingChannel {
    pub(crate) channel: String,
    pub(crate) trouble: String,
    pub(crate) waiting: String,
}

/// The channels to which nothing goes out.
pub(crate) async fn failing_channels(state: &WebState) -> Result<Vec<FailingChannel>, Failure> {
    let channels = state.store.channels().await?;
    Ok(channels
        .into_iter()
        .filter(|channel| channel.failing)
        .map(|channel| FailingChannel {
            waiting: count(
                usize::try_from(channel.waiting).unwrap_or(0),
                "message waits",
                "messages wait",
            ),
            channel: channel.channel,
            trouble: channel.last_error.unwrap_or_default(),
        })
        .collect())
}

#[derive(Template)]
#[template(path = "deadlines.html")]
struct DeadlinesRegion {
    title: &'static str,
    deadlines: Vec<DeadlineLine>,
    /// Runs are named on the page of a DAG.
    of_dag: bool,
    facts: Vec<(&'static str, String)>,
    success: Option<When>,
    overdue: Option<When>,
}

struct DeadlineLine {
    run: i64,
    name: String,
    badge: Badge,
    due: When,
}

impl From<&DeadlineRow> for DeadlineLine {
    fn from(row: &DeadlineRow) -> Self {
        let badge = match row.state.as_str() {
            "missed" => Badge::new("failed", "missed"),
            "met" => Badge::new("success", "met"),
            "cancelled" => Badge::new("cancelled", "cancelled"),
            _pending => Badge::new("queued", "pending"),
        };
        Self {
            run: row.run_id.0,
            name: row.name.clone(),
            badge,
            due: When::relative(Some(row.due_at)),
        }
    }
}

/// What the page of a run shows of its deadlines; nothing when it has none.
pub(crate) fn of_run(rows: &[DeadlineRow]) -> Result<Option<Region>, Failure> {
    if rows.is_empty() {
        return Ok(None);
    }
    let region = DeadlinesRegion {
        title: "Deadlines",
        deadlines: rows.iter().map(DeadlineLine::from).collect(),
        of_dag: false,
        facts: Vec::new(),
        success: None,
        overdue: None,
    };
    Ok(Some(Region {
        name: "deadlines",
        html: Html::of(&region)?,
    }))
}

/// What the page of a DAG shows of what it tells people; nothing when that is nothing.
pub(crate) async fn of_dag(
    state: &WebState,
    dag_id: &DagId,
    alerts: &Alerts,
) -> Result<Option<Region>, Failure> {
    if alerts.is_empty() {
        return Ok(None);
    }
    let missed = state.store.missed_deadlines(dag_id).await?;
    let health = state.store.health(dag_id).await?.unwrap_or_default();
    let region = DeadlinesRegion {
        title: "Deadlines and notifications",
        deadlines: missed.iter().map(DeadlineLine::from).collect(),
        of_dag: true,
        facts: facts(alerts),
        success: health.last_success_at.map(|at| When::relative(Some(at))),
        overdue: overdue(&health),
    };
    Ok(Some(Region {
        name: "alerts",
        html: Html::of(&region)?,
    }))
}

fn overdue(health: &HealthRow) -> Option<When> {
    health.overdue_since.map(|at| When::relative(Some(at)))
}

fn facts(alerts: &Alerts) -> Vec<(&'static str, String)> {
    let mut facts: Vec<(&'static str, String)> = alerts
        .deadlines
        .iter()
        .map(|deadline| ("Deadline", deadline.name.clone()))
        .collect();
    if let Some(words) = alerts.success_words() {
        facts.push(("Success expected", words));
    }
    facts.extend(alerts.notify.iter().map(|notify| {
        let events: Vec<&str> = notify.on.iter().map(|event| event.as_str()).collect();
        let tasks: Vec<&str> = notify.tasks.iter().map(|task| task.as_str()).collect();
        let whose = if tasks.is_empty() {
            String::new()
        } else {
            format!(" of {}", tasks.join(", "))
        };
        (
            "Notifies",
            format!("{}: {}{whose}", notify.to, events.join(", ")),
        )
    }));
    facts
}
