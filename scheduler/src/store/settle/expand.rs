//! A mapped task becomes its items, in the transaction that settles what stood for them.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::PgConnection;

use super::{Ended, Ending, Item, Step, next::Next};
use crate::store::{
    Error, Store,
    claim::task_at,
    gates::{key_gate, put_up, size},
    text::{storable, storable_value},
};

impl Store {
    /// Makes the items of what was accepted; nothing for nearly every batch.
    pub(super) async fn expand<'a>(
        &self,
        connection: &mut PgConnection,
        accepted: impl Iterator<Item = (&'a Ended, &'a Next)>,
        step: &mut Step,
    ) -> Result<(), Error> {
        for (ended, _) in accepted {
            let Ending::Expanded { items } = &ended.ending else {
                continue;
            };
            let made = self.expand_one(connection, ended, items, step).await?;
            step.made_ready(made);
        }
        Ok(())
    }

    async fn expand_one(
        &self,
        connection: &mut PgConnection,
        ended: &Ended,
        items: &[Item],
        step: &mut Step,
    ) -> Result<usize, Error> {
        let execution = &ended.execution;
        let dag = self.definition_by(connection, execution.version_id).await?;
        let task = task_at(&dag, execution.ordinal);
        let run_gate = dag
            .max_active_tasks
            .map(|_| format!("run:{}", execution.run_id));
        let map_gate = task
            .flow
            .foreach
            .as_ref()
            .and_then(|foreach| foreach.max_active_items)
            .map(|_| format!("map:{}:{}", execution.run_id, execution.ordinal));
        let key_gates: Vec<Option<String>> = items
            .iter()
            .map(|item| item.key.clone().map(key_gate))
            .collect();
        let sizes: BTreeMap<String, u32> = key_gates
            .iter()
            .chain([&run_gate, &map_gate])
            .flatten()
            .filter_map(|gate| Some((gate.clone(), size(&dag, task, gate)?)))
            .collect();
        put_up(connection, &sizes, &step.run_ids()).await?;
        let made = sqlx::query_file_scalar!(
            "src/store/queries/expand_instance.sql",
            execution.instance_id.0,
            run_gate,
            &key_gates as &[Option<String>],
            map_gate,
            execution.version_id.0,
            i32::try_from(items.len()).unwrap_or(i32::MAX),
            task.queue_timeout.map(|timeout| timeout.as_secs_f64()),
        )
        .fetch_one(&mut *connection)
        .await?;
        let made = usize::try_from(made).unwrap_or(0);
        if made == 0 {
            return Ok(0);
        }
        if task.queue_timeout.is_some() {
            step.is_due();
        }
        let values: Vec<Value> = items
            .iter()
            .map(|item| storable_value(&item.item))
            .collect();
        let names: Vec<Option<String>> = items
            .iter()
            .map(|item| Some(storable(item.name.as_deref()?).into_owned()))
            .collect();
        sqlx::query_file!(
            "src/store/queries/keep_items.sql",
            execution.run_id.0,
            i32::from(execution.ordinal),
            &values,
            &names as &[Option<String>],
        )
        .execute(connection)
        .await?;
        Ok(made)
    }
}
