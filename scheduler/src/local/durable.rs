//! What tasks of a local run keep: in memory, gone with the run.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use pinwheel_tasks::{CursorMove, CursorPosition, Durable, DurableError};
use serde_json::Value;

/// Everything that the tasks of a run keep. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    frozen: BTreeMap<(usize, String), Value>,
    cursors: BTreeMap<String, BTreeMap<i32, CursorPosition>>,
}

impl Ledger {
    /// As one task instance sees it.
    pub(super) fn of_instance(&self, instance: usize) -> Arc<dyn Durable> {
        Arc::new(OfInstance {
            ledger: self.clone(),
            instance,
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct OfInstance {
    ledger: Ledger,
    instance: usize,
}

#[async_trait]
impl Durable for OfInstance {
    async fn freeze(&self, name: &str, value: Value) -> Result<Value, DurableError> {
        let mut kept = self.ledger.kept();
        let frozen = kept.frozen.entry((self.instance, name.to_owned()));
        Ok(frozen.or_insert(value).clone())
    }

    async fn frozen(&self, name: &str) -> Result<Option<Value>, DurableError> {
        let key = (self.instance, name.to_owned());
        Ok(self.ledger.kept().frozen.get(&key).cloned())
    }

    async fn cursor(&self, cursor: &str) -> Result<BTreeMap<i32, CursorPosition>, DurableError> {
        let kept = self.ledger.kept();
        Ok(kept.cursors.get(cursor).cloned().unwrap_or_default())
    }

    async fn advance(
        &self,
        cursor: &str,
        plan: &str,
        moves: &[CursorMove],
    ) -> Result<(), DurableError> {
        let mut kept = self.ledger.kept();
        let positions = kept.cursors.entry(cursor.to_owned()).or_default();
        for one in moves {
            // Nobody else moves it: the run is alone.
            positions.insert(
                one.partition,
                CursorPosition {
                    next: one.to,
                    moved_by: plan.to_owned(),
                },
            );
        }
        Ok(())
    }
}
