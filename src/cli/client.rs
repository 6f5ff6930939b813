//! How client commands find the database of the Pinwheel that they steer.

use pinwheel_scheduler::{
    engine::bell,
    model::{ConnectionId, DagId, PoolName, RunId, TaskId, VariableName},
    secrets::{self, Vault},
    store::{self, RunRow, Store},
};

use crate::{
    embedded::{Running, key},
    failure::{Failure, Result},
    settings::{SecretKeys, Settings},
};

/// Connects to the database that the settings name, or else to that of the standalone running on the data directory.
pub(crate) async fn connect(settings: &Settings) -> Result<Store> {
    Ok(Store::connect(&database_url(settings)?).await?)
}

/// Connections and variables, with the keys that the settings name, or else with the key of the standalone whose database
/// it is.
pub(crate) async fn vault(settings: &Settings) -> Result<Vault> {
    let url = database_url(settings)?;
    let sources = if settings.secrets.is_unset() && is_of_standalone(settings, &url) {
        SecretKeys::of_file(key::file(&settings.data_dir)).sources()?
    } else {
        settings.secrets.sources()?
    };
    Ok(Vault::new(Store::connect(&url).await?, sources))
}

/// Whether a standalone on the data directory, with a key of its own, works on that database.
fn is_of_standalone(settings: &Settings, url: &str) -> bool {
    let running = Running::find(&settings.data_dir).ok().flatten();
    running.is_some_and(|running| running.database_url == url)
        && key::file(&settings.data_dir).exists()
}

fn database_url(settings: &Settings) -> Result<String> {
    if let Some(url) = &settings.database_url {
        return Ok(url.clone());
    }
    Ok(running(settings)?.database_url)
}

/// The standalone that runs on the data directory.
pub(crate) fn running(settings: &Settings) -> Result<Running> {
    Running::find(&settings.data_dir)?.ok_or_else(|| {
        Failure::unreachable(format!(
            "no standalone is running on `{}`, and `database.url` is not set",
            settings.data_dir.display()
        ))
        .hint("start `pinwheel standalone` in another terminal, name its folder with --data-dir, or name a database with --database-url or PINWHEEL_DATABASE_URL")
    })
}

/// Wakes idle engines after a change. That it was not heard costs a heartbeat, so it is no error.
pub(crate) async fn ring(store: &Store) {
    if let Err(error) = bell::ring(store).await {
        tracing::debug!(%error, "the bell was not heard");
    }
}

/// Who asks, for the audit trail.
pub(crate) fn actor() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
        .ok()
        .flatten();
    user.map_or_else(
        || "command line".to_owned(),
        |user| format!("{} (command line)", user.name),
    )
}

/// The run, or the failure that says that there is none.
pub(crate) async fn run(store: &Store, run_id: RunId) -> Result<RunRow> {
    Ok(store
        .run(run_id)
        .await?
        .ok_or(store::Error::UnknownRun { run_id })?)
}

/// Reads a DAG's id from the command line.
pub(crate) fn dag_id(text: &str) -> std::result::Result<DagId, String> {
    DagId::new(text).ok_or_else(|| not_a_name("DAG"))
}

/// Reads a task's id from the command line.
pub(crate) fn task_id(text: &str) -> std::result::Result<TaskId, String> {
    TaskId::new(text).ok_or_else(|| not_a_name("task"))
}

/// Reads a pool's name from the command line.
pub(crate) fn pool_name(text: &str) -> std::result::Result<PoolName, String> {
    PoolName::new(text).ok_or_else(|| not_a_name("pool"))
}

/// Reads a connection's id from the command line.
pub(crate) fn connection_id(text: &str) -> std::result::Result<ConnectionId, String> {
    ConnectionId::new(text).ok_or_else(|| not_a_name("connection"))
}

/// Reads a variable's name from the command line.
pub(crate) fn variable_name(text: &str) -> std::result::Result<VariableName, String> {
    VariableName::new(text).ok_or_else(|| not_a_name("variable"))
}

fn not_a_name(what: &str) -> String {
    format!("the id of a {what} is made of letters, digits, `_`, `.` and `-`")
}

impl From<secrets::Error> for Failure {
    fn from(error: secrets::Error) -> Self {
        let error = match error {
            secrets::Error::Store(error) => return error.into(),
            error => error,
        };
        let hint = error.hint();
        let failure = Self::invalid(error.to_string());
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        let message = error.to_string();
        let hint = error.hint();
        let failure = match &error {
            _ if error.is_unavailable() => Self::unreachable(message),
            store::Error::UnknownDag { .. }
            | store::Error::RetiredDag { .. }
            | store::Error::UnknownRun { .. }
            | store::Error::UnknownTask { .. }
            | store::Error::UnknownVersion { .. }
            | store::Error::Params(_)
            | store::Error::RunExists { .. }
            | store::Error::RunIsFinal { .. }
            | store::Error::TaskIsActive { .. }
            | store::Error::NothingToClear { .. }
            | store::Error::NothingToMark { .. }
            | store::Error::RunIsQueued { .. }
            | store::Error::UnknownInstance { .. }
            | store::Error::UnknownPool { .. }
            | store::Error::PoolIsDefault
            | store::Error::PoolIsNamed { .. }
            | store::Error::PoolIsBusy { .. }
            | store::Error::UnknownDataset { .. }
            | store::Error::UnknownWorker { .. }
            | store::Error::UnknownBackfill { .. }
            | store::Error::NoSchedule { .. }
            | store::Error::Range(_)
            | store::Error::NothingToBackfill { .. }
            | store::Error::BackfillIsOpen { .. }
            | store::Error::BackfillIsFinal { .. }
            | store::Error::UnknownMessage { .. }
            | store::Error::MessageIsDelivered { .. } => Self::invalid(message),
            store::Error::Definition { .. }
            | store::Error::Migrate(_)
            | store::Error::Database(_) => Self::failed(message),
        };
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
