//! What may take so long and no longer: a run, and a task in the queue. A try's own `timeout` is watched by its worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::TimeDelta;
use pinwheel_tasks::duration;
use sqlx::PgConnection;

use super::{
    Effects, Error, Store,
    claim::task_at,
    mark,
    people::lock_run,
    settle::{Final, Step},
};
use crate::model::{InstanceId, RunId, RunState, TaskState};

/// Notes until when runs may take that begin now, or begin again.
pub(super) async fn limit_runs(
    connection: &mut PgConnection,
    limited: &[(RunId, Duration)],
    step: &mut Step,
) -> Result<(), Error> {
    if limited.is_empty() {
        return Ok(());
    }
    let runs: Vec<i64> = limited.iter().map(|(run_id, _)| run_id.0).collect();
    let seconds: Vec<f64> = limited
        .iter()
        .map(|(_, timeout)| timeout.as_secs_f64())
        .collect();
    sqlx::query_file!("src/store/queries/insert_run_limits.sql", &runs, &seconds)
        .execute(connection)
        .await?;
    step.is_due();
    Ok(())
}

impl Store {
    /// Fails the runs that have taken longer than their `timeout`, and the tasks that have been queued for longer than
    /// their `queue_timeout`. Any number of schedulers may do it at the same time.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn time_out(&self, shift: TimeDelta) -> Result<Effects, Error> {
        let mut effects = Effects::default();
        let due = sqlx::query_file_scalar!("src/store/queries/read_due_runs.sql", shift as _)
            .fetch_all(&self.engine)
            .await?;
        for run_id in due {
            effects = effects.and(self.time_out_run(run_id, shift).await?);
        }
        let expired = sqlx::query_file!("src/store/queries/read_expired.sql", shift as _)
            .fetch_all(&self.engine)
            .await?;
        let mut by_run: BTreeMap<RunId, Vec<InstanceId>> = BTreeMap::new();
        for row in expired {
            by_run.entry(row.run_id).or_default().push(row.instance_id);
        }
        for (run_id, instances) in by_run {
            effects = effects.and(self.expire_queued(run_id, &instances, shift).await?);
        }
        Ok(effects)
    }

    /// Fails a run whose time is over: what runs is stopped, and what is unfinished is skipped, as in Airflow.
    async fn time_out_run(&self, run_id: RunId, shift: TimeDelta) -> Result<Effects, Error> {
        let mut transaction = self.engine.begin().await?;
        let Some(run) = lock_run(&mut transaction, run_id).await? else {
            transaction.rollback().await?;
            return Ok(Effects::default());
        };
        let taken = sqlx::query_file!("src/store/queries/take_run_limit.sql", run_id.0, shift as _)
            .execute(&mut *transaction)
            .await?;
        let effects = Effects {
            work: taken.rows_affected() > 0,
            ..Effects::default()
        };
        if taken.rows_affected() == 0 || run.state != RunState::Running {
            transaction.commit().await?;
            return Ok(effects);
        }
        let dag = self.definition_by(&mut transaction, run.version_id).await?;
        let took = dag.timeout.map_or_else(String::new, |timeout| {
            format!(" of {}", duration::text(timeout))
        });
        let reason = format!("the run took longer than its timeout{took}");
        let mut step = Step::default();
        step.knows(run_id, run.version_id);
        mark::end_unfinished(
            &mut transaction,
            run_id,
            |_| TaskState::Skipped,
            &reason,
            &mut step,
        )
        .await?;
        mark::end_run(
            &mut transaction,
            run_id,
            RunState::Failed,
            &format!("it took longer than its timeout{took}"),
        )
        .await?;
        self.start_runs(&mut transaction, &BTreeSet::from([run.dag_id]), &mut step)
            .await?;
        if dag.tasks.iter().any(|task| task.flow.depends_on_previous) {
            step.has_moved(run_id);
        }
        // Somebody may want to hear of it.
        step.closed.push((run_id, RunState::Failed));
        self.finish(&mut transaction, &mut step).await?;
        transaction.commit().await?;
        tracing::info!(%run_id, reason, "a run failed: its time was over");
        Ok(effects.and(step.effects()))
    }

    async fn expire_queued(
        &self,
        run_id: RunId,
        instances: &[InstanceId],
        shift: TimeDelta,
    ) -> Result<Effects, Error> {
        let mut transaction = self.engine.begin().await?;
        let Some(run) = lock_run(&mut transaction, run_id).await? else {
            transaction.rollback().await?;
            return Ok(Effects::default());
        };
        let ids: Vec<i64> = instances.iter().map(|instance| instance.0).collect();
        mark::lock_around(&mut transaction, run_id, &ids).await?;
        let taken =
            sqlx::query_file_scalar!("src/store/queries/take_expired.sql", &ids, shift as _)
                .fetch_all(&mut *transaction)
                .await?;
        if taken.is_empty() {
            transaction.rollback().await?;
            return Ok(Effects::default());
        }
        let dag = self.definition_by(&mut transaction, run.version_id).await?;
        let states = sqlx::query_file!("src/store/queries/read_states.sql", run_id.0)
            .fetch_all(&mut *transaction)
            .await?;
        let expired: Vec<_> = states
            .iter()
            .filter(|row| row.state == TaskState::Queued && taken.contains(&row.instance_id))
            .collect();
        let ids: Vec<i64> = expired.iter().map(|row| row.instance_id.0).collect();
        let reasons: Vec<String> = expired
            .iter()
            .map(|row| {
                let task = task_at(&dag, row.ordinal);
                let limit = task.queue_timeout.unwrap_or_default();
                format!(
                    "it was queued for longer than its queue_timeout of {}, in queue `{}` and pool `{}`",
                    duration::text(limit),
                    task.queue,
                    task.pool
                )
            })
            .collect();
        sqlx::query_file!("src/store/queries/delete_parked_of.sql", &ids)
            .execute(&mut *transaction)
            .await?;
        let mut step = Step::default();
        step.knows(run_id, run.version_id);
        let ended = mark::end_instances(
            &mut transaction,
            &ids,
            &vec![TaskState::Failed; ids.len()],
            &reasons,
            &mut step,
        )
        .await?;
        let finals = expired
            .iter()
            .filter(|row| ended.contains(&row.instance_id))
            .map(|row| Final {
                run_id,
                version_id: run.version_id,
                ordinal: row.ordinal,
                state: TaskState::Failed,
            })
            .collect();
        self.cascade(&mut transaction, finals, &mut step).await?;
        self.finish(&mut transaction, &mut step).await?;
        transaction.commit().await?;
        let work = Effects {
            work: true,
            ..Effects::default()
        };
        Ok(work.and(step.effects()))
    }
}
