//! Deletes what a stream has kept for long enough: panes of windows behind its watermark, and dead letters.
//!
//! It works beside the batches, on a connection of its own and some rows at a time, so it never holds one up. Several workers may
//! sweep at once: they pass over what another holds.

use std::{sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    definition::{DeadLetterSink, Keep},
    plan::{Plan, WindowSpan},
};

/// How often a worker looks for what is too old.
const EVERY: Duration = Duration::from_secs(600);
/// How many rows one transaction deletes.
const ROWS: i64 = 1_000;

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    pub(super) panes: u64,
    pub(super) dead_letters: u64,
}

/// The sweep of one worker.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    began: Option<Instant>,
    task: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Begins a sweep, unless the last one has not ended or was a short while ago. One that fails is tried with the next.
    pub(super) fn sweep_when_due(&mut self, pool: &PgPool, plan: &Arc<Plan>) {
        let is_due = self.began.is_none_or(|began| began.elapsed() >= EVERY)
            && self.task.as_ref().is_none_or(JoinHandle::is_finished);
        if !is_due {
            return;
        }
        self.began = Some(Instant::now());
        let (pool, plan) = (pool.clone(), Arc::clone(plan));
        self.task = Some(tokio::spawn(async move {
            let stream = &plan.definition.id;
            match sweep(&pool, &plan).await {
                Ok(swept) if swept == Swept::default() => {}
                Ok(Swept {
                    panes,
                    dead_letters,
                }) => tracing::info!(
                    stream,
                    panes,
                    dead_letters,
                    "stream `{stream}`: deleted {panes} old panes of windows and {dead_letters} old dead letters"
                ),
                Err(error) => {
                    tracing::debug!(stream, %error, "stream `{stream}`: what is old was not deleted: {error}");
                }
            }
        }));
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Deletes everything that is older than the stream's file says.
pub(super) async fn sweep(pool: &PgPool, plan: &Plan) -> Result<Swept, sqlx::Error> {
    let mut swept = Swept::default();
    for window in &plan.windows {
        if let (WindowSpan::Panes { length_ms, .. }, Keep::For(keep)) = (window.span, window.keep) {
            let length = Duration::from_millis(length_ms.unsigned_abs());
            swept.panes += delete_windows(pool, plan, &window.name, length, keep).await?;
        }
    }
    if let DeadLetterSink::Table(Keep::For(keep)) = plan.definition.dead_letters {
        loop {
            let deleted = sqlx::query(include_str!("../queries/delete_dead_letters.sql"))
                .bind(&plan.definition.id)
                .bind(keep.as_secs_f64())
                .bind(ROWS)
                .execute(pool)
                .await?
                .rows_affected();
            swept.dead_letters += deleted;
            if deleted < ROWS.unsigned_abs() {
                break;
            }
        }
    }
    Ok(swept)
}

async fn delete_windows(
    pool: &PgPool,
    plan: &Plan,
    window: &str,
    length: Duration,
    keep: Duration,
) -> Result<u64, sqlx::Error> {
    let mut panes = 0;
    loop {
        let deleted = sqlx::query(include_str!("../queries/delete_windows.sql"))
            .bind(&plan.definition.id)
            .bind(window)
            .bind(length.as_secs_f64())
            .bind(keep.as_secs_f64())
            .bind(ROWS)
            .bind(&plan.definition.topic)
            .execute(pool)
            .await?
            .rows_affected();
        panes += deleted;
        if deleted < ROWS.unsigned_abs() {
            return Ok(panes);
        }
    }
}
