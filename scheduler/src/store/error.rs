//! What can go wrong between the orchestrator and its store.

use crate::model::{
    BackfillId, DagId, DatasetName, MessageId, ParamsError, PoolName, RunId, RunState, TaskState,
    VersionId, WorkerId,
    backfill::{BackfillState, MOST_DATES, RangeError},
};

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No DAG of that id was ever published.
    #[error("unknown DAG `{dag_id}`")]
    UnknownDag {
        /// The id that was asked for.
        dag_id: DagId,
        /// The nearest id that exists.
        nearest: Option<DagId>,
        /// A file with errors, which may be its own.
        broken_file: Option<String>,
    },
    /// The DAG's file is gone; its history stays, new runs cannot be made.
    #[error("DAG `{dag_id}` has no file any more")]
    RetiredDag {
        /// The DAG.
        dag_id: DagId,
    },
    /// No run has that number.
    #[error("unknown run {run_id}")]
    UnknownRun {
        /// The number that was asked for.
        run_id: RunId,
    },
    /// The run's version has no such task.
    #[error("unknown task `{task_id}` in DAG `{dag_id}`")]
    UnknownTask {
        /// The run's DAG.
        dag_id: DagId,
        /// The task that was asked for.
        task_id: String,
        /// The nearest task that exists.
        nearest: Option<String>,
    },
    /// No version has that number.
    #[error("unknown version {version_id}")]
    UnknownVersion {
        /// The number that was asked for.
        version_id: VersionId,
    },
    /// A run cannot be made with these params.
    #[error("{}", list(.0))]
    Params(Vec<ParamsError>),
    /// There is a run of that kind for that logical date already.
    #[error("run {run_id} exists for this logical date already")]
    RunExists {
        /// That run.
        run_id: RunId,
    },
    /// The run is final already; it cannot be cancelled.
    #[error("run {run_id} is final: {state}")]
    RunIsFinal {
        /// The run.
        run_id: RunId,
        /// Its state.
        state: RunState,
    },
    /// A task of a clear is still in somebody's hands.
    #[error("task `{task_id}` is {state}; it cannot be cleared now")]
    TaskIsActive {
        /// The task.
        task_id: String,
        /// Its state.
        state: TaskState,
    },
    /// A mark changes nothing: what was chosen is so already.
    #[error("nothing to mark in run {run_id}: everything chosen is so already")]
    NothingToMark {
        /// The run.
        run_id: RunId,
    },
    /// The run has not begun.
    #[error("run {run_id} has not begun")]
    RunIsQueued {
        /// The run.
        run_id: RunId,
    },
    /// The run's version has no such item of a mapped task.
    #[error("run {run_id} has no task instance `{task_id}`{}", item(*.map_index))]
    UnknownInstance {
        /// The run.
        run_id: RunId,
        /// The task.
        task_id: String,
        /// The item.
        map_index: i32,
    },
    /// A clear chose no task.
    #[error("nothing to clear in run {run_id}")]
    NothingToClear {
        /// The run.
        run_id: RunId,
    },
    /// No pool has that name.
    #[error("unknown pool `{pool}`")]
    UnknownPool {
        /// The name that was asked for.
        pool: PoolName,
        /// The nearest name that exists.
        nearest: Option<PoolName>,
    },
    /// Tasks that name no pool are in the pool `default`.
    #[error("the pool `default` cannot be deleted: tasks that name no pool are in it")]
    PoolIsDefault,
    /// Tasks of current versions are in the pool.
    #[error("the pool `{pool}` cannot be deleted: {tasks} {} {} it ({})", noun(*.tasks, "task", "tasks"), noun(*.tasks, "names", "name"), of_dags(.dags))]
    PoolIsNamed {
        /// The pool.
        pool: PoolName,
        /// How many tasks name it.
        tasks: i64,
        /// The DAGs of these tasks.
        dags: Vec<DagId>,
    },
    /// Tasks of older versions run in the pool, or wait in it.
    #[error("the pool `{pool}` cannot be deleted now: {running} {} in it and {ready} {}", noun(*.running, "task runs", "tasks run"), noun(*.ready, "waits", "wait"))]
    PoolIsBusy {
        /// The pool.
        pool: PoolName,
        /// How many tasks run in it.
        running: i64,
        /// How many tasks wait in it.
        ready: i64,
    },
    /// No task updates a dataset of that name, and no DAG waits for it.
    #[error(
        "unknown dataset `{dataset}`: no task has it among its `outlets`, and no DAG waits for it"
    )]
    UnknownDataset {
        /// The name that was asked for.
        dataset: DatasetName,
        /// The nearest name that is known.
        nearest: Option<DatasetName>,
    },
    /// No process of the engine has, or lately had, that number.
    #[error("unknown worker {worker_id}")]
    UnknownWorker {
        /// The number that was asked for.
        worker_id: WorkerId,
    },
    /// No backfill has that number.
    #[error("unknown backfill {backfill_id}")]
    UnknownBackfill {
        /// The number that was asked for.
        backfill_id: BackfillId,
    },
    /// Only a schedule says which logical dates there are.
    #[error("DAG `{dag_id}` has no schedule, so a range holds none of its logical dates")]
    NoSchedule {
        /// The DAG.
        dag_id: DagId,
    },
    /// The range gives no backfill.
    #[error("{0}")]
    Range(RangeError),
    /// Every date has a run that the backfill would leave alone.
    #[error("there is nothing to do: {dates} of {dates} dates have a run already")]
    NothingToBackfill {
        /// How many dates there are.
        dates: usize,
    },
    /// The DAG has a backfill that is not final.
    #[error("DAG `{dag_id}` has backfill {backfill_id}, which is not over")]
    BackfillIsOpen {
        /// The DAG.
        dag_id: DagId,
        /// That backfill.
        backfill_id: BackfillId,
    },
    /// The backfill is final already.
    #[error("backfill {backfill_id} is over: {}", .state.name())]
    BackfillIsFinal {
        /// The backfill.
        backfill_id: BackfillId,
        /// Its state.
        state: BackfillState,
    },
    /// No message has that number.
    #[error("unknown message {message_id}")]
    UnknownMessage {
        /// The number that was asked for.
        message_id: MessageId,
    },
    /// A message that has arrived is not sent again.
    #[error("message {message_id} has been delivered")]
    MessageIsDelivered {
        /// The message.
        message_id: MessageId,
    },
    /// A stored definition cannot be read by this version of Pinwheel.
    #[error("the stored definition of version {version_id} cannot be read: {source}")]
    Definition {
        /// The version.
        version_id: VersionId,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The migrations could not be applied.
    #[error("the database could not be migrated: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// Postgres refused, or cannot be reached: see [`Error::is_unavailable`].
    #[error("{}", database(.0))]
    Database(#[from] sqlx::Error),
}

impl Error {
    /// Says whether trying again later may help: Postgres is away, starting, stopping, out of connections, asked for the
    /// transaction to be repeated, or gave up waiting for somebody's lock. What was to be stored is not at fault.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Database(error) => is_unavailable(error),
            Self::Migrate(sqlx::migrate::MigrateError::Execute(error)) => is_unavailable(error),
            Self::UnknownDag { .. }
            | Self::RetiredDag { .. }
            | Self::UnknownRun { .. }
            | Self::UnknownTask { .. }
            | Self::UnknownVersion { .. }
            | Self::Params(_)
            | Self::RunExists { .. }
            | Self::RunIsFinal { .. }
            | Self::TaskIsActive { .. }
            | Self::NothingToClear { .. }
            | Self::NothingToMark { .. }
            | Self::RunIsQueued { .. }
            | Self::UnknownInstance { .. }
            | Self::UnknownPool { .. }
            | Self::PoolIsDefault
            | Self::PoolIsNamed { .. }
            | Self::PoolIsBusy { .. }
            | Self::UnknownDataset { .. }
            | Self::UnknownWorker { .. }
            | Self::UnknownBackfill { .. }
            | Self::NoSchedule { .. }
            | Self::Range(_)
            | Self::NothingToBackfill { .. }
            | Self::BackfillIsOpen { .. }
            | Self::BackfillIsFinal { .. }
            | Self::UnknownMessage { .. }
            | Self::MessageIsDelivered { .. }
            | Self::Definition { .. }
            | Self::Migrate(_) => false,
        }
    }

    /// Says whether Postgres is away, rather than there and busy: of what [`Error::is_unavailable`] says, all but
    /// what Postgres itself answered.
    pub fn is_away(&self) -> bool {
        let answered = match self {
            Self::Database(error) | Self::Migrate(sqlx::migrate::MigrateError::Execute(error)) => {
                is_an_answer(error)
            }
            Self::UnknownDag { .. }
            | Self::RetiredDag { .. }
            | Self::UnknownRun { .. }
            | Self::UnknownTask { .. }
            | Self::UnknownVersion { .. }
            | Self::Params(_)
            | Self::RunExists { .. }
            | Self::RunIsFinal { .. }
            | Self::TaskIsActive { .. }
            | Self::NothingToClear { .. }
            | Self::NothingToMark { .. }
            | Self::RunIsQueued { .. }
            | Self::UnknownInstance { .. }
            | Self::UnknownPool { .. }
            | Self::PoolIsDefault
            | Self::PoolIsNamed { .. }
            | Self::PoolIsBusy { .. }
            | Self::UnknownDataset { .. }
            | Self::UnknownWorker { .. }
            | Self::UnknownBackfill { .. }
            | Self::NoSchedule { .. }
            | Self::Range(_)
            | Self::NothingToBackfill { .. }
            | Self::BackfillIsOpen { .. }
            | Self::BackfillIsFinal { .. }
            | Self::UnknownMessage { .. }
            | Self::MessageIsDelivered { .. }
            | Self::Definition { .. }
            | Self::Migrate(_) => false,
        };
        self.is_unavailable() && !answered
    }

    /// The next step, for people.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownDag {
                nearest: Some(nearest),
                ..
            } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownDag {
                broken_file: Some(file),
                ..
            } => Some(format!(
                "{file} has errors and may be its file: `pinwheel dags list` shows them"
            )),
            Self::UnknownDag { .. } => {
                Some("`pinwheel dags list` shows the DAGs there are".to_owned())
            }
            Self::RetiredDag { .. } => Some("put its file back into the DAG folder".to_owned()),
            Self::UnknownRun { .. } => {
                Some("`pinwheel runs list` shows the newest runs".to_owned())
            }
            Self::UnknownTask {
                nearest: Some(nearest),
                ..
            } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownTask {
                nearest: None,
                dag_id,
                ..
            } => Some(format!("`pinwheel dags show {dag_id}` shows its tasks")),
            Self::Params(_) => Some(
                "`pinwheel dags show` lists the params with their types and defaults".to_owned(),
            ),
            Self::RunExists { run_id } => Some(format!(
                "clear run {run_id} to run it again, or give another logical date"
            )),
            Self::RunIsFinal { .. } => {
                Some("only queued and running runs can be cancelled".to_owned())
            }
            Self::TaskIsActive { .. } => {
                Some("wait until it ends, or cancel the run first".to_owned())
            }
            Self::NothingToMark { .. } => None,
            Self::RunIsQueued { .. } => Some("cancel it, or wait until it runs".to_owned()),
            Self::UnknownInstance {
                run_id,
                map_index: ..0,
                ..
            } => Some(format!(
                "`pinwheel runs show {run_id}` shows what it has; of a mapped task, name one item: `--item N`, or `map` in the API"
            )),
            Self::UnknownInstance { run_id, .. } => {
                Some(format!("`pinwheel runs show {run_id}` shows what it has"))
            }
            Self::NothingToClear { .. } => {
                Some("only tasks that are final can be cleared".to_owned())
            }
            Self::UnknownPool {
                nearest: Some(nearest),
                ..
            } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownPool { nearest: None, .. } => {
                Some("`pinwheel pools list` shows the pools there are".to_owned())
            }
            Self::PoolIsDefault => {
                Some("to lift its limit, use `pinwheel pools set default --unlimited`".to_owned())
            }
            Self::PoolIsNamed { .. } => {
                Some("take `pool` out of these tasks in their files first".to_owned())
            }
            Self::PoolIsBusy { .. } => {
                Some("wait until they have ended, or cancel their runs".to_owned())
            }
            Self::UnknownDataset {
                nearest: Some(nearest),
                ..
            } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownDataset { nearest: None, .. } => {
                Some("`pinwheel datasets list` shows the datasets there are".to_owned())
            }
            Self::UnknownWorker { .. } => {
                Some("`pinwheel workers list --all` shows all there were".to_owned())
            }
            Self::UnknownBackfill { .. } => {
                Some("`pinwheel backfill list` shows the backfills there are".to_owned())
            }
            Self::NoSchedule { dag_id } => Some(format!(
                "give it a `schedule` in its file, or make single runs with `pinwheel dags trigger {dag_id}`"
            )),
            Self::Range(RangeError::Reversed { .. }) => Some("swap the two ends".to_owned()),
            Self::Range(RangeError::Empty { .. }) => Some(
                "a logical date counts when its data interval is over; `pinwheel schedule next` shows when a schedule fires"
                    .to_owned(),
            ),
            Self::Range(RangeError::TooLong { .. }) => Some(format!(
                "a backfill has at most {MOST_DATES} dates; split the range"
            )),
            Self::NothingToBackfill { .. } => Some(
                "reprocess `failed` runs the failed ones again, `all` every one that is not open".to_owned(),
            ),
            Self::BackfillIsOpen { backfill_id, .. } => Some(format!(
                "wait until it is over, or cancel it: `pinwheel backfill cancel {backfill_id}`"
            )),
            Self::BackfillIsFinal { .. } => {
                Some("make a new one; with reprocess `failed` it runs what failed or was cancelled".to_owned())
            }
            Self::UnknownMessage { .. } => {
                Some("`pinwheel notifications list` shows the last ones".to_owned())
            }
            Self::MessageIsDelivered { .. } => {
                Some("only messages that did not arrive can be sent again".to_owned())
            }
            Self::UnknownVersion { .. } | Self::Definition { .. } | Self::Migrate(_) => None,
            Self::Database(_) if self.is_away() => {
                Some("check that Postgres runs and that `database.url` is right".to_owned())
            }
            Self::Database(_) => None,
        }
    }
}

fn list(errors: &[ParamsError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

fn item(map_index: i32) -> String {
    if map_index < 0 {
        String::new()
    } else {
        format!(", item {map_index}")
    }
}

fn noun(number: i64, one: &'static str, many: &'static str) -> &'static str {
    if number == 1 { one } else { many }
}

/// The DAGs by name, the first few of many.
fn of_dags(dags: &[DagId]) -> String {
    const MOST: usize = 5;
    let mut words: Vec<String> = dags
        .iter()
        .take(MOST)
        .map(|dag| format!("`{dag}`"))
        .collect();
    if dags.len() > MOST {
        words.push(format!("{} more", dags.len() - MOST));
    }
    format!(
        "{} {}",
        if dags.len() == 1 { "DAG" } else { "DAGs" },
        words.join(", ")
    )
}

fn database(error: &sqlx::Error) -> String {
    if is_unavailable(error) && !is_an_answer(error) {
        format!("Postgres cannot be reached: {error}")
    } else {
        format!("Postgres refused: {error}")
    }
}

fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // A connection that ends in the middle of a message.
        sqlx::Error::Protocol(_) => true,
        // Class 08: connection; 57P: shutdown and start-up; 53: resources; 25P03: idle in transaction for too long.
        sqlx::Error::Database(_) => {
            has_code(error, &["08", "57P", "53", "25P03"]) || is_an_answer(error)
        }
        _ => false,
    }
}

/// Postgres is there and asks to try again. Class 40: repeat the transaction; 55P03: somebody held a lock for longer than
/// `lock_timeout`; 57014: the statement took longer than `statement_timeout`. A process that was stopped in the middle of
/// a transaction holds its locks until `idle_in_transaction_session_timeout`.
fn is_an_answer(error: &sqlx::Error) -> bool {
    has_code(error, &["40", "55P03", "57014"])
}

fn has_code(error: &sqlx::Error, classes: &[&str]) -> bool {
    error
        .as_database_error()
        .and_then(|refusal| refusal.code())
        .is_some_and(|code| classes.iter().any(|class| code.starts_with(class)))
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, Executor, PgConnection};

    use super::*;
    use crate::testing::fresh_store;

    #[tokio::test]
    async fn a_lock_that_somebody_holds_for_too_long_is_no_fault_of_what_is_stored() {
        let (_, url) = fresh_store().await;
        let mut holder = PgConnection::connect(&url).await.unwrap();
        holder.execute("begin; lock table run").await.unwrap();
        for limit in ["lock_timeout", "statement_timeout"] {
            let mut waiter = PgConnection::connect(&url).await.unwrap();
            let set = format!("set {limit} = '1ms'");
            waiter.execute(sqlx::AssertSqlSafe(set)).await.unwrap();
            let error = waiter.execute("update run set state = state").await;
            let error = Error::from(error.unwrap_err());
            assert!(
                error.is_unavailable() && !error.is_away(),
                "{limit}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_means_that_postgres_is_away() {
        let (_, url) = fresh_store().await;
        let mut one = PgConnection::connect(&url).await.unwrap();
        let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
            .fetch_one(&mut one)
            .await
            .unwrap();
        let mut other = PgConnection::connect(&url).await.unwrap();
        sqlx::query("select pg_terminate_backend($1)")
            .bind(pid)
            .execute(&mut other)
            .await
            .unwrap();
        let error = Error::from(one.execute("select 1").await.unwrap_err());
        assert!(error.is_unavailable() && error.is_away(), "{error}");
    }
}
