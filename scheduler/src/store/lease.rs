//! Leases of processes, and what becomes of the work of one whose lease ended.

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use pinwheel_tasks::{Failure, FailureClass};
use serde_json::json;

use super::{
    Appetite, Due, Effects, Ended, Ending, Error, Execution, Load, Settled, Store, settle::Step,
};
use crate::model::{InstanceId, RunId, VersionId, WorkerId};

/// A process that asks for a lease.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat<'a> {
    /// Host name and process id.
    pub name: &'a str,
    /// Its version of Pinwheel.
    pub version: &'a str,
    /// The queues it serves.
    pub queues: &'a [String],
    /// What its settings say about it, for people.
    pub labels: &'a BTreeMap<String, String>,
    /// How many tasks it runs at once; 0 for a scheduler alone.
    pub slots: usize,
    /// It also runs the scheduler's loops.
    pub schedules: bool,
    /// How long the lease lasts without renewal.
    pub lease: Duration,
}

/// What a heartbeat says of its process, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Report {
    /// What it measured.
    pub load: Load,
    /// Whether it still takes work.
    pub course: Course,
}

/// Whether a process takes work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Course {
    /// It does.
    #[default]
    GoesOn,
    /// It was asked to stop.
    Stops,
}

/// What a process learns when it renews its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// Something in its queues may be claimed.
    pub work_is_waiting: bool,
    /// Of what it says it runs, what is no longer its own: cancelled, or given to somebody else.
    pub lost: Vec<InstanceId>,
    /// In how long the next lease of another process ends, unless it is renewed before; zero when one is over.
    pub next_lease_end: Option<Duration>,
}

struct HeldRow {
    instance_id: InstanceId,
    run_id: RunId,
    version_id: VersionId,
    ordinal: i32,
    epoch: i32,
    worker_id: WorkerId,
    tries: i32,
    tries_allowed: i32,
    lost: i32,
    continues: bool,
}

impl Store {
    /// Opens a lease.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn register(&self, who: Heartbeat<'_>) -> Result<WorkerId, Error> {
        let slots = i32::try_from(who.slots).unwrap_or(i32::MAX);
        Ok(sqlx::query_file_scalar!(
            "src/store/queries/register_worker.sql",
            who.name,
            who.version,
            who.queues,
            slots,
            who.schedules,
            who.lease.as_secs_f64(),
            json!(who.labels)
        )
        .fetch_one(&self.engine)
        .await?)
    }

    /// Renews a lease by the database's clock. `None` when it has ended: everything it held belongs to others.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn renew(
        &self,
        worker_id: WorkerId,
        lease: Duration,
        running: &[(InstanceId, i32)],
    ) -> Result<Option<Renewed>, Error> {
        self.renew_with(worker_id, lease, running, Report::default())
            .await
    }

    /// [`Store::renew`], with what people want to know of the process.
    ///
    /// # Errors
    /// As there.
    pub async fn renew_with(
        &self,
        worker_id: WorkerId,
        lease: Duration,
        running: &[(InstanceId, i32)],
        report: Report,
    ) -> Result<Option<Renewed>, Error> {
        let instances: Vec<i64> = running.iter().map(|(instance, _)| instance.0).collect();
        let epochs: Vec<i32> = running.iter().map(|(_, epoch)| *epoch).collect();
        let count = i32::try_from(running.len()).unwrap_or(i32::MAX);
        let row = sqlx::query_file!(
            "src/store/queries/renew_lease.sql",
            worker_id.0,
            lease.as_secs_f64(),
            count,
            &instances,
            &epochs,
            report.load.load_average,
            report.load.memory_bytes,
            report.load.cpu_cores,
            report.course == Course::Stops
        )
        .fetch_optional(&self.engine)
        .await?;
        Ok(row.map(|row| Renewed {
            work_is_waiting: row.work_is_waiting,
            lost: row.lost,
            next_lease_end: row.next_lease_end.map(seconds_from_now),
        }))
    }

    /// Ends a lease in good order, when its process holds nothing any more.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached; the lease then ends by itself.
    pub async fn resign(&self, worker_id: WorkerId) -> Result<(), Error> {
        sqlx::query_file!("src/store/queries/end_worker.sql", worker_id.0)
            .execute(&self.engine)
            .await?;
        Ok(())
    }

    /// Ends the leases that are over and gives what they held to others: queued again, or failed when too many
    /// executions of it were lost.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn reap(&self) -> Result<Settled, Error> {
        let mut transaction = self.engine.begin().await?;
        let expired = sqlx::query_file!("src/store/queries/lock_expired_workers.sql")
            .fetch_all(&mut *transaction)
            .await?;
        if expired.is_empty() {
            transaction.rollback().await?;
            return Ok(Settled::default());
        }
        let workers: Vec<i64> = expired.iter().map(|worker| worker.worker_id.0).collect();
        let held = sqlx::query_file_as!(HeldRow, "src/store/queries/read_held.sql", &workers)
            .fetch_all(&mut *transaction)
            .await?;
        let name = |worker_id| {
            expired
                .iter()
                .find(|worker| worker.worker_id == worker_id)
                .map_or("?", |worker| worker.name.as_str())
        };
        let batch: Vec<Ended> = held
            .into_iter()
            .map(|row| lost(name(row.worker_id), row))
            .collect();
        let mut step = Step::default();
        let refused = self
            .settle_by(&mut transaction, &batch, Appetite::NONE, &mut step)
            .await?;
        transaction.commit().await?;
        for worker in &expired {
            tracing::warn!(
                worker = worker.name,
                worker_id = worker.worker_id.0,
                "a worker's lease ended; its tasks run elsewhere"
            );
        }
        Ok(Settled::new(refused, step))
    }

    /// Gives to others what a run's workers hold that have ended or do not exist; returns how many executions.
    pub(super) async fn give_back_lost(&self, run_id: RunId) -> Result<usize, Error> {
        let mut transaction = self.engine.begin().await?;
        let held = sqlx::query_file_as!(HeldRow, "src/store/queries/read_lost.sql", run_id.0)
            .fetch_all(&mut *transaction)
            .await?;
        let batch: Vec<Ended> = held
            .into_iter()
            .map(|row| lost(&row.worker_id.to_string(), row))
            .collect();
        let mut step = Step::default();
        let refused = self
            .settle_by(&mut transaction, &batch, Appetite::NONE, &mut step)
            .await?;
        transaction.commit().await?;
        Ok(batch.len() - refused.len())
    }

    /// Notes that a scheduler begins to watch the clock. Ticks between the end of the last watch and now passed
    /// unwatched, and `catchup` decides about them.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn begin_watch(&self, lease: Duration, shift: TimeDelta) -> Result<(), Error> {
        sqlx::query_file!(
            "src/store/queries/begin_watch.sql",
            lease.as_secs_f64(),
            shift as _
        )
        .execute(&self.engine)
        .await?;
        Ok(())
    }

    /// Notes that a scheduler still watches the clock.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn extend_watch(&self, lease: Duration, shift: TimeDelta) -> Result<(), Error> {
        sqlx::query_file!(
            "src/store/queries/extend_watch.sql",
            lease.as_secs_f64(),
            shift as _
        )
        .execute(&self.engine)
        .await?;
        Ok(())
    }

    /// Queues the task instances whose time to wake has come.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn wake(&self, shift: TimeDelta) -> Result<Effects, Error> {
        let woken = sqlx::query_file_scalar!("src/store/queries/wake_sleepers.sql", shift as _)
            .fetch_one(&self.engine)
            .await?;
        Ok(Effects {
            work: woken > 0,
            ..Effects::default()
        })
    }

    /// In how long the next things are due by the clock.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn next_deadline(&self, shift: TimeDelta) -> Result<Due, Error> {
        let due = sqlx::query_file!("src/store/queries/read_next_deadline.sql", shift as _)
            .fetch_one(&self.engine)
            .await?;
        Ok(Due {
            work: due.seconds.map(seconds_from_now),
            alerts: due.alert_seconds.map(seconds_from_now),
            messages: due.message_seconds.map(seconds_from_now),
        })
    }
}

fn seconds_from_now(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

fn lost(worker: &str, row: HeldRow) -> Ended {
    Ended {
        ending: Ending::Failed(Failure {
            class: FailureClass::Lost,
            message: format!("worker `{worker}` was lost: it did not renew its lease"),
            hint: None,
            exit_code: None,
        }),
        execution: Execution {
            instance_id: row.instance_id,
            run_id: row.run_id,
            version_id: row.version_id,
            ordinal: row.ordinal,
            worker_id: row.worker_id,
            epoch: row.epoch,
            tries: row.tries,
            tries_allowed: row.tries_allowed,
            lost: row.lost,
            continues: row.continues,
        },
        lines: Vec::new(),
        rendered: None,
        span: None,
    }
}
