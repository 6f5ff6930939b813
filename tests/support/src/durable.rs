//! Durable state in memory, for tests of one kind of task without an orchestrator. It keeps the promises of
//! [`Durable`], and can be told to lose its answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use pinwheel_tasks::{CursorMove, CursorPosition, Durable, DurableError};
use serde_json::Value;

/// What all task instances of an installation keep. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    frozen: BTreeMap<(i64, String), Value>,
    cursors: BTreeMap<(String, i32), CursorPosition>,
    /// Plans that moved a cursor.
    moved: BTreeSet<(String, String)>,
}

impl Ledger {
    /// The durable state as one task instance sees it.
    pub fn of_instance(&self, instance_id: i64) -> Arc<dyn Durable> {
        Arc::new(OfInstance {
            ledger: self.clone(),
            instance_id,
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept
            .lock()
            .expect("no test panics while it holds this")
    }
}

struct OfInstance {
    ledger: Ledger,
    instance_id: i64,
}

#[async_trait]
impl Durable for OfInstance {
    async fn freeze(&self, name: &str, value: Value) -> Result<Value, DurableError> {
        let mut kept = self.ledger.kept();
        Ok(kept
            .frozen
            .entry((self.instance_id, name.to_owned()))
            .or_insert(value)
            .clone())
    }

    async fn frozen(&self, name: &str) -> Result<Option<Value>, DurableError> {
        Ok(self
            .ledger
            .kept()
            .frozen
            .get(&(self.instance_id, name.to_owned()))
            .cloned())
    }

    async fn cursor(&self, cursor: &str) -> Result<BTreeMap<i32, CursorPosition>, DurableError> {
        let kept = self.ledger.kept();
        let of_cursor = kept.cursors.iter().filter(|((name, _), _)| name == cursor);
        Ok(of_cursor
            .map(|((_, partition), position)| (*partition, position.clone()))
            .collect())
    }

    async fn advance(
        &self,
        cursor: &str,
        plan: &str,
        moves: &[CursorMove],
    ) -> Result<(), DurableError> {
        let mut kept = self.ledger.kept();
        if kept.moved.contains(&(cursor.to_owned(), plan.to_owned())) {
            return Ok(());
        }
        for step in moves {
            if let Some(position) = kept.cursors.get(&(cursor.to_owned(), step.partition))
                && position.next != step.from
            {
                return Err(DurableError::CursorMoved {
                    cursor: cursor.to_owned(),
                    partition: step.partition,
                    expected: step.from,
                    found: position.next,
                });
            }
        }
        for step in moves {
            let position = CursorPosition {
                next: step.to,
                moved_by: plan.to_owned(),
            };
            kept.cursors
                .insert((cursor.to_owned(), step.partition), position);
        }
        kept.moved.insert((cursor.to_owned(), plan.to_owned()));
        Ok(())
    }
}
