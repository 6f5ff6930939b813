//! Deadlines, notifications and the messages that are made of them.
//!
//! A notification is a row of the transaction that made it true, so none is lost and none is told of what was rolled back.
//! Schedulers gather rows into messages, lane by lane (DAG, event, channel), and lease messages while they deliver them. A
//! DAG that tells nobody anything pays a look at its definition, which is in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::{
    Ended, Error, Store,
    claim::task_at,
    settle::{Next, Step},
    text::storable,
};
use crate::model::{
    Dag, DagId, Event, InstanceId, MessageId, Origin, Route, RunId, RunState, SleepReason, TaskId,
    TaskState, VersionId,
    message::{MOST_LISTED, Message, Notification},
};

/// How long a message is tried before it is given up.
const GIVE_UP_AFTER: TimeDelta = TimeDelta::hours(24);
/// How long a message belongs to the process that delivers it.
pub(crate) const DELIVERY_LEASE: Duration = Duration::from_secs(60);
/// Messages in one list at most.
const MOST_MESSAGES: i64 = 200;
/// The longest error of a channel that is kept.
const LONGEST_ERROR: usize = 1_000;

/// A channel as a scheduler has it in its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelInfo {
    /// Its name.
    pub channel: String,
    /// `webhook`, `slack` or `email`.
    pub kind: String,
    /// Where it leads, without anything secret.
    pub target: String,
}

/// A channel, and how delivery to it goes.
#[derive(Debug, Clone, Serialize)]
pub struct ChannelRow {
    /// Its name.
    pub channel: String,
    /// What it is; `None` when a DAG file names it and no scheduler has it in its settings.
    pub kind: Option<String>,
    /// Where it leads, without anything secret.
    pub target: String,
    /// When a scheduler last started with it.
    pub seen_at: Option<DateTime<Utc>>,
    /// The last delivery.
    pub delivered_at: Option<DateTime<Utc>>,
    /// The last delivery that failed.
    pub failed_at: Option<DateTime<Utc>>,
    /// What was wrong then.
    pub last_error: Option<String>,
    /// Whether the last delivery failed.
    pub failing: bool,
    /// Messages on their way to it.
    pub waiting: i64,
}

/// A message as lists show it.
#[derive(Debug, Clone, Serialize)]
pub struct MessageRow {
    /// Its number.
    pub message_id: MessageId,
    /// The DAG.
    pub dag_id: DagId,
    /// What happened.
    pub event: Event,
    /// Where it goes.
    pub channel: String,
    /// For how many notifications it stands.
    pub count: i32,
    /// When it was made.
    pub made_at: DateTime<Utc>,
    /// When it is tried next.
    pub next_at: Option<DateTime<Utc>>,
    /// How often it was tried.
    pub attempts: i32,
    /// When it was delivered.
    pub delivered_at: Option<DateTime<Utc>>,
    /// When it was given up.
    pub given_up_at: Option<DateTime<Utc>>,
    /// What was wrong with the last try.
    pub last_error: Option<String>,
    /// The run of its first notification.
    pub run_id: Option<RunId>,
    /// What is known of its first notification.
    pub detail: Value,
}

impl MessageRow {
    /// What became of it, in one word.
    pub fn state(&self) -> MessageState {
        match (
            self.delivered_at,
            self.given_up_at,
            self.last_error.as_ref(),
        ) {
            (Some(_), _, _) => MessageState::Delivered,
            (None, Some(_), _) => MessageState::GivenUp,
            (None, None, Some(_)) => MessageState::Failing,
            (None, None, None) => MessageState::Waiting,
        }
    }
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// It is on its way.
    Waiting,
    /// A try has failed, and another one follows.
    Failing,
    /// It has arrived.
    Delivered,
    /// It was tried for a day; only a person makes it go out again.
    GivenUp,
}

impl MessageState {
    /// The words for it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Waiting => "on its way",
            Self::Failing => "failing",
            Self::Delivered => "delivered",
            Self::GivenUp => "given up",
        }
    }
}

/// Which messages to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct MessageFilter {
    /// Only of this DAG.
    pub dag_id: Option<DagId>,
    /// Only messages before this one.
    pub before: Option<MessageId>,
    /// Only those that could not be delivered yet.
    pub undelivered: bool,
    /// At most so many.
    pub limit: i64,
}

/// A deadline of a run.
#[derive(Debug, Clone, Serialize)]
pub struct DeadlineRow {
    /// The run.
    pub run_id: RunId,
    /// What it is called.
    pub name: String,
    /// The task that must be done; `None` is the run.
    pub task_id: Option<TaskId>,
    /// By when.
    pub due_at: DateTime<Utc>,
    /// `pending`, `met`, `missed` or `cancelled`.
    pub state: String,
    /// When that was known.
    pub settled_at: Option<DateTime<Utc>>,
}

/// How a DAG that tells people something is doing.
#[derive(Debug, Clone, Default, Serialize)]
pub struct HealthRow {
    /// The run that closed last has failed.
    pub failing: bool,
    /// The last run that succeeded.
    pub last_success_at: Option<DateTime<Utc>>,
    /// By when another one must succeed.
    pub success_due_at: Option<DateTime<Utc>>,
    /// Since when that is overdue.
    pub overdue_since: Option<DateTime<Utc>>,
}

/// What is due next, each in how long; `None` is never, zero is overdue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Due {
    /// A tick or a wake-up.
    pub work: Option<Duration>,
    /// What people are to be told.
    pub alerts: Option<Duration>,
    /// A message.
    pub messages: Option<Duration>,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryFailed {
    /// It is tried again.
    Again,
    /// It is given up.
    GivenUp,
    /// Somebody else has it by now.
    TakenOver,
}

/// What is told of tries.
#[derive(Default)]
struct OfTasks<'a> {
    instances: Vec<i64>,
    epochs: Vec<i32>,
    events: Vec<&'static str>,
    channels: Vec<&'a str>,
    cool_downs: Vec<f64>,
}

impl<'a> OfTasks<'a> {
    fn add(&mut self, ended: &Ended, event: Event, routes: Vec<Route<'a>>) {
        for route in routes {
            self.instances.push(ended.execution.instance_id.0);
            self.epochs.push(ended.execution.epoch);
            self.events.push(event.as_str());
            self.channels.push(route.channel);
            self.cool_downs.push(route.cool_down.as_secs_f64());
        }
    }
}

/// What is told of runs.
#[derive(Default)]
struct OfRuns {
    runs: Vec<i64>,
    events: Vec<&'static str>,
    channels: Vec<String>,
    cool_downs: Vec<f64>,
    deadlines: Vec<Option<i32>>,
}

impl OfRuns {
    fn add(&mut self, run: RunId, event: Event, deadline: Option<i32>, routes: Vec<Route<'_>>) {
        for route in routes {
            self.runs.push(run.0);
            self.events.push(event.as_str());
            self.channels.push(route.channel.to_owned());
            self.cool_downs.push(route.cool_down.as_secs_f64());
            self.deadlines.push(deadline);
        }
    }

    /// Stores them; whether there were any.
    async fn store(self, connection: &mut PgConnection) -> Result<bool, Error> {
        if self.runs.is_empty() {
            return Ok(false);
        }
        sqlx::query_file!(
            "src/store/queries/insert_run_notifications.sql",
            &self.runs,
            &self.events as &[&str],
            &self.channels,
            &self.cool_downs,
            &self.deadlines as &[Option<i32>]
        )
        .execute(connection)
        .await?;
        Ok(true)
    }
}

/// Stores the deadlines of new versions, and the records of DAGs that tell people something.
pub(super) async fn publish(
    connection: &mut PgConnection,
    versions: &[(VersionId, &Dag)],
) -> Result<(), Error> {
    let deadlines = || {
        versions.iter().flat_map(|(version, dag)| {
            dag.alerts
                .deadlines
                .iter()
                .zip(0_i32..)
                .map(move |(deadline, place)| (*version, *dag, place, deadline))
        })
    };
    let of: Vec<i64> = deadlines().map(|(version, ..)| version.0).collect();
    if of.is_empty() {
        return Ok(());
    }
    let places: Vec<i32> = deadlines().map(|(_, _, place, _)| place).collect();
    let names: Vec<String> = deadlines()
        .map(|(.., deadline)| deadline.name.clone())
        .collect();
    let origins: Vec<String> = deadlines()
        .map(|(.., deadline)| deadline.from.as_str().to_owned())
        .collect();
    let after: Vec<f64> = deadlines()
        .map(|(.., deadline)| deadline.after.as_secs_f64())
        .collect();
    let ordinals: Vec<Option<i32>> = deadlines()
        .map(|(_, dag, _, deadline)| {
            let (ordinal, _) = dag.task(deadline.task.as_ref()?.as_str())?;
            i32::try_from(ordinal).ok()
        })
        .collect();
    sqlx::query_file!(
        "src/store/queries/insert_deadlines.sql",
        &of,
        &places,
        &names,
        &origins,
        &after,
        &ordinals as &[Option<i32>]
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes or changes the records of DAGs that tell people something, or did before.
pub(super) async fn publish_health(
    connection: &mut PgConnection,
    dags: &[&Dag],
    shift: TimeDelta,
) -> Result<(), Error> {
    if dags.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = dags.iter().map(|dag| dag.id.to_string()).collect();
    let seconds: Vec<Option<f64>> = dags
        .iter()
        .map(|dag| dag.alerts.no_success_for.map(|time| time.as_secs_f64()))
        .collect();
    sqlx::query_file!(
        "src/store/queries/upsert_health.sql",
        &ids,
        &seconds as &[Option<f64>],
        shift as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl Store {
    /// Tells of tries that were recorded in this transaction.
    pub(super) async fn tell_of_tries<'a>(
        &self,
        connection: &mut PgConnection,
        accepted: impl Iterator<Item = (&'a Ended, &'a Next)>,
        step: &mut Step,
    ) -> Result<(), Error> {
        let mut heard = Vec::new();
        // Most batches are of one version, and nobody hears of it.
        let mut last: Option<(VersionId, Arc<Dag>)> = None;
        for (ended, next) in accepted {
            let version = ended.execution.version_id;
            let dag = match &last {
                Some((known, dag)) if *known == version => Arc::clone(dag),
                Some(_) | None => self.definition_by(connection, version).await?,
            };
            if !dag.alerts.notify.is_empty() {
                heard.push((ended, next, Arc::clone(&dag)));
            }
            last = Some((version, dag));
        }
        if heard.is_empty() {
            return Ok(());
        }
        let mut told = OfTasks::default();
        let mut ends = BTreeMap::new();
        for (ended, next, dag) in &heard {
            let task = &task_at(dag, ended.execution.ordinal).id;
            let event = match next.state {
                TaskState::Failed => Event::Failure,
                TaskState::Success => Event::Success,
                TaskState::Sleeping if matches!(&next.sleep, Some((SleepReason::Retry, _, _))) => {
                    Event::Retry
                }
                TaskState::Sleeping
                | TaskState::Waiting
                | TaskState::Queued
                | TaskState::Running
                | TaskState::Skipped
                | TaskState::UpstreamFailed
                | TaskState::Cancelled => continue,
            };
            told.add(ended, event, dag.alerts.of_task(event, task));
            if event != Event::Retry && !dag.alerts.of_task(Event::Recovery, task).is_empty() {
                ends.insert(
                    ended.execution.instance_id,
                    (*ended, dag, task, event == Event::Failure),
                );
            }
        }
        if !ends.is_empty() {
            let dags: Vec<String> = ends
                .values()
                .map(|(_, dag, ..)| dag.id.to_string())
                .collect();
            let tasks: Vec<String> = ends
                .values()
                .map(|(_, _, task, _)| task.to_string())
                .collect();
            let failed: Vec<bool> = ends.values().map(|(.., failed)| *failed).collect();
            let instances: Vec<i64> = ends.keys().map(|instance| instance.0).collect();
            let recovered = sqlx::query_file_scalar!(
                "src/store/queries/note_task_ends.sql",
                &dags,
                &tasks,
                &failed,
                &instances
            )
            .fetch_all(&mut *connection)
            .await?;
            for instance in recovered {
                let (ended, dag, task, _) = ends[&instance];
                told.add(
                    ended,
                    Event::Recovery,
                    dag.alerts.of_task(Event::Recovery, task),
                );
            }
        }
        if told.instances.is_empty() {
            return Ok(());
        }
        sqlx::query_file!(
            "src/store/queries/insert_task_notifications.sql",
            &told.instances,
            &told.epochs,
            &told.events as &[&str],
            &told.channels as &[&str],
            &told.cool_downs
        )
        .execute(connection)
        .await?;
        step.effects.deadline = true;
        Ok(())
    }

    /// Settles the deadlines of runs that this transaction has closed, and tells of them. Their DAGs are locked.
    pub(super) async fn tell_of_closed(
        &self,
        connection: &mut PgConnection,
        step: &mut Step,
    ) -> Result<(), Error> {
        let mut told = OfRuns::default();
        let mut ended = Vec::new();
        let untold = step.take_untold();
        let versions = untold.iter().map(|(_, version, _)| *version).collect();
        self.know_definitions(connection, &versions).await?;
        for (run_id, version_id, state) in untold {
            let dag = self.definition_by(connection, version_id).await?;
            if dag.alerts.is_empty() {
                continue;
            }
            if !dag.alerts.deadlines.is_empty() {
                ended.push(run_id.0);
            }
            let event = match state {
                RunState::Success => Event::Success,
                RunState::Failed => Event::Failure,
                RunState::Queued | RunState::Running | RunState::Cancelled => continue,
            };
            let was_in_trouble = sqlx::query_file_scalar!(
                "src/store/queries/note_run_end.sql",
                dag.id.as_str(),
                event == Event::Success
            )
            .fetch_optional(&mut *connection)
            .await?
            .unwrap_or(false);
            told.add(run_id, event, None, dag.alerts.of_run(event));
            if event == Event::Success && was_in_trouble {
                told.add(
                    run_id,
                    Event::Recovery,
                    None,
                    dag.alerts.of_run(Event::Recovery),
                );
            }
            step.effects.deadline |= dag.alerts.no_success_for.is_some();
        }
        end_deadlines(connection, &ended, &[]).await?;
        step.effects.deadline |= told.store(connection).await?;
        Ok(())
    }

    /// Gives runs that have just started their deadlines.
    pub(super) async fn begin_deadlines(
        &self,
        connection: &mut PgConnection,
        started: &[(RunId, VersionId)],
        step: &mut Step,
    ) -> Result<(), Error> {
        let (runs, versions): (Vec<i64>, Vec<i64>) = started
            .iter()
            .filter(|(_, version)| {
                self.known_definition(*version).is_some_and(|dag| {
                    dag.alerts
                        .deadlines
                        .iter()
                        .any(|deadline| deadline.from == Origin::Started)
                })
            })
            .map(|(run, version)| (run.0, version.0))
            .unzip();
        if runs.is_empty() {
            return Ok(());
        }
        sqlx::query_file!("src/store/queries/begin_deadlines.sql", &runs, &versions)
            .execute(connection)
            .await?;
        step.effects.deadline = true;
        Ok(())
    }

    /// Notes the deadlines that are missed by now, and the DAGs that have had no success for too long. Any number of
    /// schedulers may do it at the same time.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn strike(&self, shift: TimeDelta) -> Result<bool, Error> {
        let mut transaction = self.engine.begin().await?;
        let struck = sqlx::query_file!("src/store/queries/strike_deadlines.sql", shift as _)
            .fetch_all(&mut *transaction)
            .await?;
        let silent = sqlx::query_file!("src/store/queries/strike_silence.sql", shift as _)
            .fetch_all(&mut *transaction)
            .await?;
        if struck.is_empty() && silent.is_empty() {
            transaction.rollback().await?;
            return Ok(false);
        }
        let versions: BTreeSet<VersionId> = struck
            .iter()
            .map(|row| row.version_id)
            .chain(silent.iter().filter_map(|row| row.version_id))
            .collect();
        self.know_definitions(&mut transaction, &versions).await?;
        let mut told = OfRuns::default();
        for row in struck.iter().filter(|row| row.missed) {
            let dag = self.definition_by(&mut transaction, row.version_id).await?;
            let routes = match row.ordinal {
                Some(ordinal) => dag
                    .alerts
                    .of_task(Event::Deadline, &task_at(&dag, ordinal).id),
                None => dag.alerts.of_run(Event::Deadline),
            };
            told.add(row.run_id, Event::Deadline, Some(row.deadline), routes);
        }
        told.store(&mut transaction).await?;
        let mut dags = Vec::new();
        let mut channels = Vec::new();
        let mut cool_downs = Vec::new();
        for row in silent.iter().filter(|row| row.overdue) {
            let Some(version_id) = row.version_id else {
                continue;
            };
            let dag = self.definition_by(&mut transaction, version_id).await?;
            for route in dag.alerts.of_run(Event::Deadline) {
                dags.push(row.dag_id.to_string());
                channels.push(route.channel.to_owned());
                cool_downs.push(route.cool_down.as_secs_f64());
            }
        }
        if !dags.is_empty() {
            sqlx::query_file!(
                "src/store/queries/insert_dag_notifications.sql",
                &dags,
                &channels,
                &cool_downs
            )
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Makes messages of the notifications whose lanes are not in their cool-down; says whether anything moved.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn gather(&self, shift: TimeDelta) -> Result<bool, Error> {
        sqlx::query_file!("src/store/queries/insert_lanes.sql", shift as _)
            .execute(&self.engine)
            .await?;
        let mut transaction = self.engine.begin().await?;
        let lanes = sqlx::query_file!("src/store/queries/lock_lanes.sql", shift as _)
            .fetch_all(&mut *transaction)
            .await?;
        if lanes.is_empty() {
            transaction.rollback().await?;
            return Ok(false);
        }
        let columns = |open: bool| {
            let chosen = || lanes.iter().filter(move |lane| lane.is_open == open);
            let dags: Vec<String> = chosen().map(|lane| lane.dag_id.clone()).collect();
            let events: Vec<String> = chosen().map(|lane| lane.event.clone()).collect();
            let channels: Vec<String> = chosen().map(|lane| lane.channel.clone()).collect();
            (dags, events, channels)
        };
        let (dags, events, channels) = columns(false);
        if !dags.is_empty() {
            sqlx::query_file!(
                "src/store/queries/defer_notifications.sql",
                &dags,
                &events,
                &channels
            )
            .execute(&mut *transaction)
            .await?;
        }
        let (dags, events, channels) = columns(true);
        if !dags.is_empty() {
            sqlx::query_file_scalar!(
                "src/store/queries/gather_notifications.sql",
                &dags,
                &events,
                &channels,
                shift as _,
                GIVE_UP_AFTER as _
            )
            .fetch_one(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Takes up to `limit` messages that are to be delivered now.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn lease_messages(
        &self,
        limit: usize,
        shift: TimeDelta,
    ) -> Result<Vec<Message>, Error> {
        let lease = TimeDelta::from_std(DELIVERY_LEASE).unwrap_or(TimeDelta::minutes(1));
        let leased = sqlx::query_file!(
            "src/store/queries/lease_messages.sql",
            shift as _,
            i64::try_from(limit).unwrap_or(i64::MAX),
            lease as _
        )
        .fetch_all(&self.engine)
        .await?;
        let mut messages: BTreeMap<MessageId, Message> = leased
            .into_iter()
            .map(|row| {
                let message = Message {
                    message_id: row.message_id,
                    dag_id: row.dag_id,
                    event: row.event,
                    channel: row.channel,
                    made_at: row.made_at,
                    attempt: row.attempts,
                    count: row.count,
                    notifications: Vec::new(),
                };
                (row.message_id, message)
            })
            .collect();
        let ids: Vec<i64> = messages.keys().map(|id| id.0).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query_file!(
            "src/store/queries/list_notifications.sql",
            &ids,
            MOST_LISTED
        )
        .fetch_all(&self.engine)
        .await?;
        for row in rows {
            if let Some(message) = messages.get_mut(&row.message_id) {
                message.notifications.push(Notification {
                    run_id: row.run_id,
                    happened_at: row.happened_at,
                    // What another version wrote is told as far as it is understood.
                    detail: serde_json::from_value(row.detail).unwrap_or_default(),
                });
            }
        }
        Ok(messages.into_values().collect())
    }

    /// Notes that a message has arrived.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached; it will be delivered again then.
    pub async fn delivered(&self, message: MessageId) -> Result<(), Error> {
        sqlx::query_file!("src/store/queries/record_delivery.sql", message.0)
            .execute(&self.engine)
            .await?;
        Ok(())
    }

    /// Notes that a message could not be delivered; it is tried again after `pause`, or given up when its time is over.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached; it will be tried again after its lease then.
    pub async fn not_delivered(
        &self,
        message: &Message,
        error: &str,
        pause: Duration,
        shift: TimeDelta,
    ) -> Result<DeliveryFailed, Error> {
        let error: String = storable(error).chars().take(LONGEST_ERROR).collect();
        let pause = TimeDelta::from_std(pause).unwrap_or(TimeDelta::hours(1));
        let given_up = sqlx::query_file_scalar!(
            "src/store/queries/record_delivery_failure.sql",
            message.message_id.0,
            message.attempt,
            error,
            shift as _,
            pause as _
        )
        .fetch_optional(&self.engine)
        .await?;
        Ok(match given_up {
            Some(true) => DeliveryFailed::GivenUp,
            Some(false) => DeliveryFailed::Again,
            None => DeliveryFailed::TakenOver,
        })
    }

    /// Notes which channels this process has in its settings.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn note_channels(&self, channels: &[ChannelInfo]) -> Result<(), Error> {
        if channels.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = channels.iter().map(|one| one.channel.clone()).collect();
        let kinds: Vec<String> = channels.iter().map(|one| one.kind.clone()).collect();
        let targets: Vec<String> = channels.iter().map(|one| one.target.clone()).collect();
        sqlx::query_file!(
            "src/store/queries/upsert_channels.sql",
            &names,
            &kinds,
            &targets
        )
        .execute(&self.engine)
        .await?;
        Ok(())
    }

    /// The channels, by name.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn channels(&self) -> Result<Vec<ChannelRow>, Error> {
        Ok(
            sqlx::query_file_as!(ChannelRow, "src/store/queries/list_channels.sql")
                .fetch_all(&self.people)
                .await?,
        )
    }

    /// Messages, newest first.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn messages(&self, filter: &MessageFilter) -> Result<Vec<MessageRow>, Error> {
        self.list_messages(filter, None).await
    }

    /// One message.
    ///
    /// # Errors
    /// There is none of that number, or Postgres cannot be reached.
    pub async fn message(&self, message_id: MessageId) -> Result<MessageRow, Error> {
        let filter = MessageFilter {
            limit: 1,
            ..MessageFilter::default()
        };
        self.list_messages(&filter, Some(message_id))
            .await?
            .pop()
            .ok_or(Error::UnknownMessage { message_id })
    }

    async fn list_messages(
        &self,
        filter: &MessageFilter,
        only: Option<MessageId>,
    ) -> Result<Vec<MessageRow>, Error> {
        Ok(sqlx::query_file_as!(
            MessageRow,
            "src/store/queries/list_messages.sql",
            filter.dag_id.as_ref().map(DagId::as_str),
            filter.before.map(|message| message.0),
            only.map(|message| message.0),
            filter.undelivered,
            filter.limit.clamp(1, MOST_MESSAGES)
        )
        .fetch_all(&self.people)
        .await?)
    }

    /// Lets a message that has not arrived go out again now, for another day.
    ///
    /// # Errors
    /// There is none of that number, it has arrived, or Postgres cannot be reached.
    pub async fn retry_message(
        &self,
        message_id: MessageId,
        actor: &str,
    ) -> Result<MessageRow, Error> {
        let mut transaction = self.engine.begin().await?;
        let changed = sqlx::query_file!(
            "src/store/queries/retry_message.sql",
            message_id.0,
            GIVE_UP_AFTER as _
        )
        .execute(&mut *transaction)
        .await?;
        if changed.rows_affected() == 0 {
            transaction.rollback().await?;
            self.message(message_id).await?;
            return Err(Error::MessageIsDelivered { message_id });
        }
        let detail = serde_json::json!({ "message": message_id });
        super::people::audit(
            &mut transaction,
            actor,
            "retry_message",
            None,
            None,
            &detail,
        )
        .await?;
        transaction.commit().await?;
        self.message(message_id).await
    }

    /// The deadlines of a run, by time.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn run_deadlines(&self, run_id: RunId) -> Result<Vec<DeadlineRow>, Error> {
        Ok(sqlx::query_file_as!(
            DeadlineRow,
            "src/store/queries/list_run_deadlines.sql",
            run_id.0
        )
        .fetch_all(&self.people)
        .await?)
    }

    /// The deadlines that the last runs of a DAG have missed, newest first.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn missed_deadlines(&self, dag_id: &DagId) -> Result<Vec<DeadlineRow>, Error> {
        Ok(sqlx::query_file_as!(
            DeadlineRow,
            "src/store/queries/list_missed_deadlines.sql",
            dag_id.as_str()
        )
        .fetch_all(&self.people)
        .await?)
    }

    /// How a DAG is doing; `None` when it never told people anything.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn health(&self, dag_id: &DagId) -> Result<Option<HealthRow>, Error> {
        Ok(sqlx::query_file_as!(
            HealthRow,
            "src/store/queries/read_health.sql",
            dag_id.as_str()
        )
        .fetch_optional(&self.people)
        .await?)
    }
}

/// Settles what is pending of runs that have ended; those of `cancelled` with them.
pub(super) async fn end_deadlines(
    connection: &mut PgConnection,
    runs: &[i64],
    cancelled: &[i64],
) -> Result<(), Error> {
    if runs.is_empty() {
        return Ok(());
    }
    sqlx::query_file!("src/store/queries/end_deadlines.sql", runs, cancelled)
        .execute(connection)
        .await?;
    Ok(())
}

/// Says whether an execution's success is told to somebody, so that more than one statement follows from it.
pub(super) fn hears_success(dag: &Dag, ordinal: i32) -> bool {
    !dag.alerts.notify.is_empty() && dag.alerts.hears_success_of(&task_at(dag, ordinal).id)
}
