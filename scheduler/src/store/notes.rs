//! Notes that people write beside runs and task instances.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

use super::{Error, Store, people::audit};
use crate::model::{DagId, InstanceId, RunId, TaskId};

/// A note as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteText(String);

impl NoteText {
    /// The most characters it may have, as in Airflow.
    pub const LONGEST: usize = 1_000;

    /// The text without blanks around it, or `None` when it is longer than [`Self::LONGEST`] characters or holds control
    /// characters but line ends and tabs. Empty takes the note away.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.replace("\r\n", "\n");
        let text = text.trim();
        let fits = text.chars().count() <= Self::LONGEST
            && !text
                .chars()
                .any(|character| character.is_control() && !matches!(character, '\n' | '\t'));
        fits.then(|| Self(text.to_owned()))
    }
}

/// A note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NoteRow {
    /// The task that it is about; `None` for the run itself.
    pub task_id: Option<TaskId>,
    /// -1 for a task that is not mapped; `None` for the run itself.
    pub map_index: Option<i32>,
    /// The text.
    pub note: String,
    /// Who wrote it.
    pub written_by: String,
    /// When.
    pub written_at: DateTime<Utc>,
}

impl Store {
    /// The notes of a run and of its task instances.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn notes(&self, run_id: RunId) -> Result<Vec<NoteRow>, Error> {
        let rows = sqlx::query_file!("src/store/queries/list_notes.sql", run_id.0)
            .fetch_all(&self.people)
            .await?;
        Ok(rows
            .into_iter()
            .map(|row| NoteRow {
                task_id: row.task_id,
                map_index: row.map_index.filter(|_| row.instance_id.0 != 0),
                note: row.note,
                written_by: row.written_by,
                written_at: row.written_at,
            })
            .collect())
    }

    /// Writes the note of a run, or of one of its task instances; an empty one takes it away.
    ///
    /// # Errors
    /// The run or task instance is unknown, or Postgres is away.
    pub async fn set_note(
        &self,
        run_id: RunId,
        task: Option<(&TaskId, i32)>,
        text: &NoteText,
        actor: &str,
    ) -> Result<(), Error> {
        let (instance_id, dag_id) = match task {
            Some((task_id, map_index)) => self.find_instance(run_id, task_id, map_index).await?,
            None => {
                let run = self
                    .run(run_id)
                    .await?
                    .ok_or(Error::UnknownRun { run_id })?;
                (InstanceId(0), run.dag_id)
            }
        };
        let mut transaction = self.people.begin().await?;
        if text.0.is_empty() {
            sqlx::query_file!("src/store/queries/delete_note.sql", run_id.0, instance_id.0)
                .execute(&mut *transaction)
                .await?;
        } else {
            sqlx::query_file!(
                "src/store/queries/upsert_note.sql",
                run_id.0,
                instance_id.0,
                text.0,
                actor
            )
            .execute(&mut *transaction)
            .await?;
        }
        let detail = json!({ "task": task.map(|(task_id, _)| task_id), "note": &text.0 });
        audit(
            &mut transaction,
            actor,
            "note",
            &dag_id,
            Some(run_id),
            &detail,
        )
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The task instance of a task, with its DAG.
    pub(super) async fn find_instance(
        &self,
        run_id: RunId,
        task_id: &TaskId,
        map_index: i32,
    ) -> Result<(InstanceId, DagId), Error> {
        let found = sqlx::query_file!(
            "src/store/queries/find_instance.sql",
            run_id.0,
            task_id.as_str(),
            map_index
        )
        .fetch_optional(&self.people)
        .await?;
        match found {
            Some(found) => Ok((found.instance_id, found.dag_id)),
            None => {
                self.run(run_id)
                    .await?
                    .ok_or(Error::UnknownRun { run_id })?;
                Err(Error::UnknownInstance {
                    run_id,
                    task_id: task_id.to_string(),
                    map_index,
                })
            }
        }
    }
}
