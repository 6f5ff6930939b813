//! What a few decisions look at besides counters: setups and branches.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sqlx::PgConnection;

use super::{Counters, Step, index};
use crate::{
    model::{
        RunId, TaskState,
        flow::{Sight, Sights},
    },
    store::{Error, Store},
};

impl Store {
    /// What has to be looked at to decide about these rows, by run. Nothing for nearly all.
    pub(super) async fn sights(
        &self,
        connection: &mut PgConnection,
        rows: &[Counters],
        step: &Step,
    ) -> Result<BTreeMap<RunId, Sights>, Error> {
        let mut wanted: BTreeSet<(RunId, usize)> = BTreeSet::new();
        for row in rows.iter().filter(|row| row.state == TaskState::Waiting) {
            let Some(version_id) = step.versions.get(&row.run_id) else {
                continue;
            };
            let dag = self.definition_by(connection, *version_id).await?;
            let ordinal = index(row.ordinal);
            if !dag.counts_alone(&dag.tasks[ordinal]) {
                wanted.extend(
                    dag.looks_at(ordinal)
                        .into_iter()
                        .map(|one| (row.run_id, one)),
                );
            }
        }
        read(connection, &wanted).await
    }

    /// What became of some tasks of one run.
    pub(in crate::store) async fn sights_of(
        &self,
        connection: &mut PgConnection,
        run_id: RunId,
        ordinals: BTreeSet<usize>,
    ) -> Result<Sights, Error> {
        sights_of(connection, run_id, &ordinals).await
    }
}

/// What became of some tasks of one run.
pub(in crate::store) async fn sights_of(
    connection: &mut PgConnection,
    run_id: RunId,
    ordinals: &BTreeSet<usize>,
) -> Result<Sights, Error> {
    let wanted = ordinals.iter().map(|one| (run_id, *one)).collect();
    Ok(read(connection, &wanted)
        .await?
        .remove(&run_id)
        .unwrap_or_default())
}

async fn read(
    connection: &mut PgConnection,
    wanted: &BTreeSet<(RunId, usize)>,
) -> Result<BTreeMap<RunId, Sights>, Error> {
    let mut sights: BTreeMap<RunId, Sights> = BTreeMap::new();
    if wanted.is_empty() {
        return Ok(sights);
    }
    let runs: Vec<i64> = wanted.iter().map(|(run_id, _)| run_id.0).collect();
    let ordinals: Vec<i32> = wanted
        .iter()
        .map(|(_, ordinal)| i32::try_from(*ordinal).unwrap_or(i32::MAX))
        .collect();
    let rows = sqlx::query_file!("src/store/queries/read_sights.sql", &runs, &ordinals)
        .fetch_all(connection)
        .await?;
    for row in rows {
        let sight: &mut Sight = sights
            .entry(row.run_id)
            .or_default()
            .entry(index(row.ordinal))
            .or_default();
        sight.count(row.state);
        if let Some(chosen) = row.chosen {
            sight.chosen = chosen_ids(&chosen);
        }
    }
    Ok(sights)
}

/// The ids in the output of a branch.
fn chosen_ids(chosen: &Value) -> Vec<String> {
    chosen
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|id| Some(id.as_str()?.to_owned()))
        .collect()
}
