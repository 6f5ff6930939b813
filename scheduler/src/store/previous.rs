//! `depends_on_previous`: a task that waits for the same task of the run before.
//!
//! Two runs meet here, and runs are locked in the order of their ids, so neither of their own transactions may decide.
//! Whoever ends such a task, or finds that one is ready but for the run before, leaves a note ([`Store::note_nudges`]); the
//! scheduler takes notes, locks both runs and decides. No wake-up is lost: what the note-taker does not see, because it is
//! not committed, holds the lock that the note-taker waits for, or leaves a note of its own.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use super::{
    Effects, Error, Store,
    settle::{Counters, Step},
};
use crate::model::{InstanceId, RunId, RunState, TaskId, TaskState, VersionId};

/// Notes taken by one transaction.
const AT_ONCE: i64 = 20;

/// A run and the one before it.
struct Pair {
    run_id: RunId,
    version_id: VersionId,
    state: RunState,
    before: Option<RunId>,
    version_before: Option<VersionId>,
    state_before: Option<RunState>,
}

impl Store {
    /// Leaves the notes of a step, if it has any.
    pub(super) async fn note_nudges(
        &self,
        connection: &mut PgConnection,
        step: &mut Step,
    ) -> Result<(), Error> {
        let (moved, held) = step.take_nudges();
        if moved.is_empty() && held.is_empty() {
            return Ok(());
        }
        sqlx::query_file!("src/store/queries/insert_nudges.sql", &moved, &held)
            .execute(connection)
            .await?;
        step.effects.deadline = true;
        Ok(())
    }

    /// Takes notes and lets go on what waited for the run before and need not any more.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached; the notes stay.
    pub async fn take_nudges(&self) -> Result<Effects, Error> {
        let mut transaction = self.engine.begin().await?;
        let runs = sqlx::query_file_scalar!("src/store/queries/take_nudges.sql", AT_ONCE)
            .fetch_all(&mut *transaction)
            .await?;
        if runs.is_empty() {
            transaction.rollback().await?;
            return Ok(Effects::default());
        }
        let runs: Vec<i64> = runs.into_iter().map(|run_id| run_id.0).collect();
        let pairs = pairs(&mut transaction, &runs).await?;
        let locked: BTreeSet<i64> = pairs
            .iter()
            .filter(|pair| pair.state == RunState::Running)
            .flat_map(|pair| {
                // One that has not begun is locked after its DAG, and has nothing to say yet.
                let before = pair
                    .before
                    .filter(|_| pair.state_before != Some(RunState::Queued));
                [Some(pair.run_id), before]
            })
            .flatten()
            .map(|run_id| run_id.0)
            .collect();
        let to_lock: Vec<i64> = locked.iter().copied().collect();
        sqlx::query_file_scalar!("src/store/queries/lock_runs.sql", &to_lock)
            .fetch_all(&mut *transaction)
            .await?;
        let mut step = Step::default();
        // Again, now that nobody moves them.
        let pairs: Vec<Pair> = self::pairs(&mut transaction, &runs)
            .await?
            .into_iter()
            .filter(|pair| pair.state == RunState::Running)
            .collect();
        // All of them first: what is let go on may lock the DAGs of all.
        for pair in &pairs {
            step.knows(pair.run_id, pair.version_id);
        }
        for pair in &pairs {
            let is_locked = |run_id: RunId| locked.contains(&run_id.0);
            let may_decide = is_locked(pair.run_id)
                && pair.before.is_none_or(|before| {
                    is_locked(before) || pair.state_before == Some(RunState::Queued)
                });
            if may_decide {
                self.release(&mut transaction, pair, &mut step).await?;
            } else {
                // It has begun a moment ago, or another run is before it now.
                step.hold(pair.run_id);
            }
        }
        self.finish(&mut transaction, &mut step).await?;
        transaction.commit().await?;
        // That notes were taken is an effect: the next pass looks whether there are more.
        Ok(step.effects().and(Effects {
            deadline: true,
            ..Effects::default()
        }))
    }

    async fn release(
        &self,
        connection: &mut PgConnection,
        pair: &Pair,
        step: &mut Step,
    ) -> Result<(), Error> {
        let dag = self.definition_by(connection, pair.version_id).await?;
        let waiting = sqlx::query_file_as!(
            Counters,
            "src/store/queries/read_waiting.sql",
            pair.run_id.0
        )
        .fetch_all(&mut *connection)
        .await?;
        let before = self.states_before(connection, pair).await?;
        let mut due = Vec::new();
        for row in waiting {
            let task = super::claim::task_at(&dag, row.ordinal);
            let has_gone_well = before.get(&task.id).is_none_or(|states| {
                states
                    .iter()
                    .all(|state| matches!(state, TaskState::Success | TaskState::Skipped))
            });
            if task.flow.depends_on_previous && has_gone_well {
                step.release(row.run_id, row.ordinal);
                due.push(row);
            }
        }
        let finals = self.promote(connection, &due, step).await?;
        self.cascade(connection, finals, step).await
    }

    /// What became of the tasks of the run before, by id: versions may differ. Empty when there is none.
    async fn states_before(
        &self,
        connection: &mut PgConnection,
        pair: &Pair,
    ) -> Result<BTreeMap<TaskId, Vec<TaskState>>, Error> {
        let mut states: BTreeMap<TaskId, Vec<TaskState>> = BTreeMap::new();
        let Some((before, version_id)) = pair.before.zip(pair.version_before) else {
            return Ok(states);
        };
        let dag = self.definition_by(connection, version_id).await?;
        let rows = sqlx::query_file!("src/store/queries/read_states.sql", before.0)
            .fetch_all(connection)
            .await?;
        for row in rows {
            let task = super::claim::task_at(&dag, row.ordinal);
            states.entry(task.id.clone()).or_default().push(row.state);
        }
        Ok(states)
    }
}

async fn pairs(connection: &mut PgConnection, runs: &[i64]) -> Result<Vec<Pair>, Error> {
    Ok(
        sqlx::query_file_as!(Pair, "src/store/queries/read_runs_before.sql", runs)
            .fetch_all(connection)
            .await?,
    )
}
