//! The move of a run from one version of its DAG to another: tasks are matched by id, new ones are added, and what the run
//! has of tasks that are gone keeps its place in history, out of the new version's sight.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use sqlx::PgConnection;

use super::{Found, LockedRun, index};
use crate::{
    model::{Dag, Params, RunId, TaskState, VersionId},
    store::{Error, Moved, Store},
};

/// How a run moves.
pub(in crate::store) struct Travel {
    from: VersionId,
    pub(super) to: VersionId,
    old: Arc<Dag>,
    new: Arc<Dag>,
    /// The new place of every task that both have, by its old one.
    places: BTreeMap<i32, i32>,
    /// Places in the new version.
    pub(super) added: Vec<i32>,
    /// Places in the old version.
    removed: Vec<i32>,
    params: Value,
}

/// Below any place that a task of a version can have, and any that is given to one that is gone.
const ASIDE: i32 = -1_000_000_000;

impl Store {
    /// How a run would move to the current version of its DAG; `None` when it is there already. Nothing of it may be in
    /// somebody's hands: a worker goes by the version that it was told. Without `params` it keeps its own, which must fit.
    pub(in crate::store) async fn plan_travel(
        &self,
        connection: &mut PgConnection,
        run_id: RunId,
        run: &LockedRun,
        instances: &[Found],
        params: Option<&Value>,
    ) -> Result<Option<Travel>, Error> {
        let current = sqlx::query_file_scalar!(
            "src/store/queries/read_current_version.sql",
            run.dag_id.as_str()
        )
        .fetch_one(&mut *connection)
        .await?;
        let Some(to) = current.filter(|current| *current != run.version_id) else {
            return Ok(None);
        };
        let old = self.definition_by(connection, run.version_id).await?;
        let new = self.definition_by(connection, to).await?;
        for instance in instances {
            match instance.state {
                state @ (TaskState::Queued | TaskState::Running | TaskState::Sleeping) => {
                    return Err(Error::TaskIsActive {
                        task_id: old.tasks[index(instance.ordinal)].id.to_string(),
                        state,
                    });
                }
                TaskState::Waiting
                | TaskState::Success
                | TaskState::Failed
                | TaskState::Skipped
                | TaskState::UpstreamFailed
                | TaskState::Cancelled => {}
            }
        }
        let params = match params {
            Some(params) => params.clone(),
            None => own_params(connection, run_id, &new).await?,
        };
        let number = |ordinal: usize| i32::try_from(ordinal).unwrap_or(i32::MAX);
        let mut places = BTreeMap::new();
        let mut removed = Vec::new();
        for (ordinal, task) in old.tasks.iter().enumerate() {
            match new.task(task.id.as_str()) {
                Some((place, _)) => {
                    places.insert(number(ordinal), number(place));
                }
                None => removed.push(number(ordinal)),
            }
        }
        let added = new
            .tasks
            .iter()
            .enumerate()
            .filter(|(_, task)| old.task(task.id.as_str()).is_none())
            .map(|(ordinal, _)| number(ordinal))
            .collect();
        Ok(Some(Travel {
            from: run.version_id,
            to,
            old,
            new,
            places,
            added,
            removed,
            params,
        }))
    }
}

/// The params of a run as the new version takes them: what it does not take is left out, what it takes besides has its default.
async fn own_params(
    connection: &mut PgConnection,
    run_id: RunId,
    new: &Dag,
) -> Result<Value, Error> {
    let given = sqlx::query_file_scalar!("src/store/queries/read_params.sql", run_id.0)
        .fetch_optional(connection)
        .await?;
    let given = match given {
        Some(Value::Object(params)) => params,
        Some(_) | None => Params::new(),
    };
    let given = given
        .into_iter()
        .filter(|(name, _)| new.params.contains_key(name))
        .collect();
    Ok(Value::Object(
        new.check_params(&given).map_err(Error::Params)?,
    ))
}

impl Travel {
    /// Gives task instances the places they will have; those of removed tasks go.
    pub(in crate::store) fn place_all(&self, instances: &mut Vec<Found>) {
        instances.retain_mut(|instance| match self.places.get(&instance.ordinal) {
            Some(place) => {
                instance.ordinal = *place;
                true
            }
            None => false,
        });
    }

    pub(super) fn answer(&self) -> Moved {
        let names = |dag: &Dag, ordinals: &[i32]| {
            ordinals
                .iter()
                .map(|ordinal| dag.tasks[index(*ordinal)].id.clone())
                .collect()
        };
        Moved {
            from: self.from,
            to: self.to,
            added: names(&self.new, &self.added),
            removed: names(&self.old, &self.removed),
        }
    }

    /// Moves a locked run of which nothing is in anybody's hands.
    pub(in crate::store) async fn carry_out(
        &self,
        connection: &mut PgConnection,
        run_id: RunId,
    ) -> Result<(), Error> {
        let lowest = sqlx::query_file_scalar!("src/store/queries/read_last_removed.sql", run_id.0)
            .fetch_one(&mut *connection)
            .await?;
        let removed: Vec<i32> = (1..)
            .zip(&self.removed)
            .map(|(count, _)| lowest - count)
            .collect();
        sqlx::query_file!(
            "src/store/queries/insert_removed.sql",
            run_id.0,
            self.from.0,
            &removed,
            &self.removed
        )
        .execute(&mut *connection)
        .await?;
        // In two steps: a place is taken until whoever has it has moved.
        let old: Vec<i32> = self.places.keys().chain(&self.removed).copied().collect();
        let aside: Vec<i32> = old.iter().map(|place| ASIDE - place).collect();
        let next: Vec<i32> = self.places.values().copied().chain(removed).collect();
        for (from, to) in [(&old, &aside), (&aside, &next)] {
            sqlx::query_file!("src/store/queries/move_instances.sql", run_id.0, from, to)
                .execute(&mut *connection)
                .await?;
        }
        sqlx::query_file!(
            "src/store/queries/insert_instances.sql",
            run_id.0,
            self.to.0,
            &self.added
        )
        .execute(&mut *connection)
        .await?;
        sqlx::query_file!(
            "src/store/queries/move_run.sql",
            run_id.0,
            self.to.0,
            self.params
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
