//! Limits besides pools: `max_active_tasks` of a run, and concurrency keys. What they hold back is parked by the claim that
//! finds a gate full, and let out by whoever leaves it.

use std::collections::{BTreeMap, HashMap};

use sqlx::PgConnection;

use super::{
    Error, Store,
    settle::{Final, Step},
};
use crate::model::{Concurrency, Dag, DagId, RunId, Task, TaskState, VersionId, template};

/// The gates that a task instance has to pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Gates {
    /// `max_active_tasks` of its run.
    pub(super) of_run: Option<String>,
    /// Its concurrency key.
    pub(super) of_key: Option<String>,
}

/// The longest key that is kept as it is; a longer one is cut, and shares its limit with what begins the same.
const LONGEST_KEY: usize = 500;

impl Store {
    /// The gates of what was promoted by a step over these runs, put up where they are missing. Locks are taken in the
    /// order runs, DAGs, gates, ready rows, task instances.
    pub(super) async fn put_up_gates(
        &self,
        connection: &mut PgConnection,
        promoted: &[Final],
        runs: &[i64],
    ) -> Result<Vec<Gates>, Error> {
        let mut gates = vec![Gates::default(); promoted.len()];
        let mut sizes = BTreeMap::new();
        let mut keyed = Vec::new();
        for (position, row) in promoted.iter().enumerate() {
            if row.state != TaskState::Queued {
                continue;
            }
            let Some(dag) = self.known_definition(row.version_id) else {
                continue;
            };
            if let Some(slots) = dag.max_active_tasks {
                let gate = format!("run:{}", row.run_id);
                sizes.insert(gate.clone(), slots);
                gates[position].of_run = Some(gate);
            }
            let task = super::claim::task_at(&dag, row.ordinal);
            // The key of an item may read the item, which is not there yet.
            if let Some(concurrency) = task
                .concurrency
                .as_ref()
                .filter(|_| task.flow.foreach.is_none())
            {
                keyed.push((position, concurrency.clone(), task.id.to_string()));
            }
        }
        if !keyed.is_empty() {
            let runs = keyed
                .iter()
                .map(|(position, _, _)| promoted[*position].run_id)
                .collect();
            let values = run_values(connection, runs).await?;
            for (position, concurrency, task_id) in keyed {
                let key = match values.get(&promoted[position].run_id) {
                    Some(values) => render(&concurrency, values, task_id),
                    None => concurrency.key.clone(),
                };
                let gate = key_gate(key);
                sizes.insert(gate.clone(), concurrency.limit);
                gates[position].of_key = Some(gate);
            }
        }
        put_up(connection, &sizes, runs).await?;
        Ok(gates)
    }

    /// Puts up the gates of items that are queued again; which ones was decided when the list was made.
    pub(super) async fn put_up_item_gates(
        &self,
        connection: &mut PgConnection,
        promoted: &[Final],
        runs: &[i64],
    ) -> Result<(), Error> {
        let mapped: Vec<&Final> = promoted
            .iter()
            .filter(|row| row.state == TaskState::Queued)
            .filter(|row| {
                self.known_definition(row.version_id).is_some_and(|dag| {
                    super::claim::task_at(&dag, row.ordinal)
                        .flow
                        .foreach
                        .is_some()
                })
            })
            .collect();
        if mapped.is_empty() {
            return Ok(());
        }
        let of_runs: Vec<i64> = mapped.iter().map(|row| row.run_id.0).collect();
        let ordinals: Vec<i32> = mapped.iter().map(|row| row.ordinal).collect();
        let versions: Vec<i64> = mapped.iter().map(|row| row.version_id.0).collect();
        let rows = sqlx::query_file!(
            "src/store/queries/read_item_gates.sql",
            &of_runs,
            &ordinals,
            &versions
        )
        .fetch_all(&mut *connection)
        .await?;
        let mut sizes = BTreeMap::new();
        for row in rows {
            if let Some(dag) = self.known_definition(row.version_id)
                && let Some(slots) = size(&dag, super::claim::task_at(&dag, row.ordinal), &row.gate)
            {
                sizes.insert(row.gate, slots);
            }
        }
        put_up(connection, &sizes, runs).await
    }

    /// Lets out what waited behind the gates that somebody has left in this transaction.
    pub(super) async fn let_out(
        &self,
        connection: &mut PgConnection,
        step: &mut Step,
    ) -> Result<(), Error> {
        let gates: Vec<String> = step.take_left_gates().into_iter().collect();
        if gates.is_empty() {
            return Ok(());
        }
        sqlx::query_file!("src/store/queries/lock_gates_of.sql", &gates)
            .fetch_all(&mut *connection)
            .await?;
        let let_out = sqlx::query_file_scalar!("src/store/queries/let_out_parked.sql", &gates)
            .fetch_one(connection)
            .await?;
        step.made_ready(usize::try_from(let_out).unwrap_or(0));
        Ok(())
    }
}

/// How much room a gate has, by what it is for.
pub(super) fn size(dag: &Dag, task: &Task, gate: &str) -> Option<u32> {
    match gate.split_once(':')?.0 {
        "run" => dag.max_active_tasks,
        "map" => task.flow.foreach.as_ref()?.max_active_items,
        _key => task
            .concurrency
            .as_ref()
            .map(|concurrency| concurrency.limit),
    }
}

/// The gate of a concurrency key.
pub(super) fn key_gate(mut key: String) -> String {
    key.retain(|character| character != '\0');
    if key.len() > LONGEST_KEY {
        let end = (0..=LONGEST_KEY)
            .rev()
            .find(|end| key.is_char_boundary(*end))
            .unwrap_or(0);
        key.truncate(end);
    }
    format!("key:{key}")
}

/// Makes sure that gates are there and have these sizes.
pub(super) async fn put_up(
    connection: &mut PgConnection,
    sizes: &BTreeMap<String, u32>,
    runs: &[i64],
) -> Result<(), Error> {
    if sizes.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = sizes.keys().cloned().collect();
    let slots: Vec<i32> = sizes
        .values()
        .map(|slots| i32::try_from(*slots).unwrap_or(i32::MAX))
        .collect();
    let is_due =
        sqlx::query_file_scalar!("src/store/queries/read_gates_to_put_up.sql", &names, &slots)
            .fetch_one(&mut *connection)
            .await?;
    if is_due {
        sqlx::query_file_scalar!("src/store/queries/lock_dags_of_runs.sql", runs)
            .fetch_all(&mut *connection)
            .await?;
        sqlx::query_file!("src/store/queries/put_up_gates.sql", &names, &slots)
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// What a concurrency key may read, by run.
async fn run_values(
    connection: &mut PgConnection,
    runs: Vec<RunId>,
) -> Result<HashMap<RunId, template::Values>, Error> {
    let runs: Vec<i64> = runs.into_iter().map(|run_id| run_id.0).collect();
    let rows = sqlx::query_file!("src/store/queries/read_run_values.sql", &runs)
        .fetch_all(connection)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let dag_id: DagId = row.dag_id;
            let values = template::Values {
                params: match row.params {
                    Some(serde_json::Value::Object(params)) => params,
                    Some(_) | None => crate::model::Params::new(),
                },
                outputs: BTreeMap::new(),
                triggering_datasets: BTreeMap::new(),
                dag_id: dag_id.to_string(),
                run_id: row.run_id.0,
                task_id: String::new(),
                try_number: 1,
                logical_date: row.logical_date,
                data_interval_start: row.data_interval_start,
                data_interval_end: row.data_interval_end,
                item: None,
            };
            (row.run_id, values)
        })
        .collect())
}

/// The key of a task. One that cannot be rendered stands for itself: those tasks share a limit, and none runs without.
fn render(concurrency: &Concurrency, values: &template::Values, task_id: String) -> String {
    let values = template::Values {
        task_id,
        ..values.clone()
    };
    match template::render_text("concurrency_key", &concurrency.key, &values) {
        Ok(key) => key,
        Err(error) => {
            tracing::warn!(
                dag_id = values.dag_id,
                run_id = values.run_id,
                task_id = values.task_id,
                %error,
                "a concurrency key cannot be rendered; its template is the key"
            );
            concurrency.key.clone()
        }
    }
}

#[cfg(test)]
mod tests;
