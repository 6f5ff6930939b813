//! Durable state without an orchestrator, for tests of one kind of task. It keeps the promises of [`Durable`], can be told
//! to lose its answers, and can live in a file, so that it outlives a process that a test kills.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use pinwheel_tasks::{CursorMove, CursorPosition, Durable, DurableError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What all task instances of an installation keep. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    kept: Arc<Mutex<Kept>>,
    /// Where it is kept; in memory alone without it.
    file: Option<Arc<PathBuf>>,
    /// Calls that are carried out and answered with an error, next to come.
    lost: Arc<Mutex<Vec<Call>>>,
}

/// A call that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`Durable::freeze`].
    Freeze,
    /// [`Durable::advance`].
    Advance,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// By `instance/name`.
    frozen: BTreeMap<String, Value>,
    cursors: BTreeMap<String, BTreeMap<i32, CursorPosition>>,
    /// Plans that moved a cursor.
    moved: BTreeSet<(String, String)>,
    /// The epoch of each instance that was taken over.
    epochs: BTreeMap<i64, i64>,
}

impl Ledger {
    /// A ledger that several processes may use.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub fn in_file(path: &Path) -> Self {
        File::options()
            .create(true)
            .append(true)
            .open(path)
            .expect("the test's folder can be written");
        Self {
            file: Some(Arc::new(path.to_owned())),
            ..Self::default()
        }
    }

    /// The durable state as one task instance sees it that nobody takes over.
    pub fn of_instance(&self, instance_id: i64) -> Arc<dyn Durable> {
        Arc::new(OfInstance {
            ledger: self.clone(),
            instance_id,
            epoch: None,
        })
    }

    /// Takes a task instance over: whoever had it before is fenced.
    pub fn take_over(&self, instance_id: i64) -> Arc<dyn Durable> {
        let epoch = self.change(|kept| {
            let epoch = kept.epochs.entry(instance_id).or_default();
            *epoch += 1;
            *epoch
        });
        Arc::new(OfInstance {
            ledger: self.clone(),
            instance_id,
            epoch: Some(epoch),
        })
    }

    /// Carries the next such call out and answers that the store did not.
    ///
    /// # Panics
    /// When a test panicked while it held the ledger.
    pub fn lose_answer_of_next(&self, call: Call) {
        self.lost
            .lock()
            .expect("no test panics while it holds this")
            .push(call);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        let mut kept = self
            .kept
            .lock()
            .expect("no test panics while it holds this");
        let Some(path) = &self.file else {
            return change(&mut kept);
        };
        let lock = File::open(&**path).expect("the file was made");
        lock.lock().expect("files can be locked");
        let text = fs::read(path.with_extension("now")).unwrap_or_default();
        *kept = serde_json::from_slice(&text).unwrap_or_default();
        let answer = change(&mut kept);
        let text = serde_json::to_vec(&*kept).expect("text keys only");
        // Renamed, so that a killed process leaves the one or the other.
        fs::write(path.with_extension("new"), text).expect("the folder can be written");
        fs::rename(path.with_extension("new"), path.with_extension("now"))
            .expect("both are in one folder");
        answer
    }

    fn answer<T>(&self, call: Call, answer: T) -> Result<T, DurableError> {
        let mut lost = self
            .lost
            .lock()
            .expect("no test panics while it holds this");
        match lost.iter().position(|lost| *lost == call) {
            Some(at) => {
                lost.remove(at);
                Err(DurableError::Unavailable("the answer was lost".to_owned()))
            }
            None => Ok(answer),
        }
    }
}

struct OfInstance {
    ledger: Ledger,
    instance_id: i64,
    epoch: Option<i64>,
}

impl OfInstance {
    fn check_fence(&self, kept: &Kept) -> Result<(), DurableError> {
        if kept.epochs.get(&self.instance_id).copied() == self.epoch {
            Ok(())
        } else {
            Err(DurableError::Fenced)
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.instance_id)
    }
}

#[async_trait]
impl Durable for OfInstance {
    async fn freeze(&self, name: &str, value: Value) -> Result<Value, DurableError> {
        let stored = self.ledger.change(|kept| {
            self.check_fence(kept)?;
            Ok(kept.frozen.entry(self.key(name)).or_insert(value).clone())
        })?;
        self.ledger.answer(Call::Freeze, stored)
    }

    async fn frozen(&self, name: &str) -> Result<Option<Value>, DurableError> {
        Ok(self
            .ledger
            .change(|kept| kept.frozen.get(&self.key(name)).cloned()))
    }

    async fn cursor(&self, cursor: &str) -> Result<BTreeMap<i32, CursorPosition>, DurableError> {
        Ok(self
            .ledger
            .change(|kept| kept.cursors.get(cursor).cloned().unwrap_or_default()))
    }

    async fn advance(
        &self,
        cursor: &str,
        plan: &str,
        moves: &[CursorMove],
    ) -> Result<(), DurableError> {
        self.ledger.change(|kept| {
            self.check_fence(kept)?;
            let plan_of_cursor = (cursor.to_owned(), plan.to_owned());
            if kept.moved.contains(&plan_of_cursor) {
                return Ok(());
            }
            let positions = kept.cursors.entry(cursor.to_owned()).or_default();
            for step in moves {
                if let Some(position) = positions.get(&step.partition)
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
                positions.insert(step.partition, position);
            }
            kept.moved.insert(plan_of_cursor);
            Ok(())
        })?;
        self.ledger.answer(Call::Advance, ())
    }
}
