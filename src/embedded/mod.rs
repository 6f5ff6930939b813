//! The embedded default: a private Postgres, a broker and an S3 server, all on loopback and below one data directory,
//! all gone when we are. Each is left out when a setting names a real one.
//!
//! Nothing but `standalone`, `demo` and `bench` may use this: a role in production that started a database of its own because a
//! setting was misspelt would lose data quietly.

mod broker;
mod child;
pub(crate) mod key;
mod lock;
mod memory;
mod port;
mod postgres;
mod s3;
mod state_file;

use std::{
    future::pending,
    path::{Path, PathBuf},
};

use pinwheel_tasks::{KafkaSettings, S3Settings};

pub(crate) use self::state_file::Running;
use self::{broker::Broker, lock::DirectoryLock, memory::Memory, postgres::Postgres, s3::S3};
use crate::{
    failure::{Failure, Result},
    settings::{SecretKeys, Settings},
};

/// The services of one standalone.
#[derive(Debug)]
pub(crate) struct Embedded {
    data_dir: PathBuf,
    /// Where the key for secrets is, unless the settings say.
    key_file: Option<PathBuf>,
    postgres: Option<Postgres>,
    broker: Option<Broker>,
    s3: Option<S3>,
    database_url: String,
    kafka: KafkaSettings,
    s3_settings: S3Settings,
    /// Released last.
    _lock: DirectoryLock,
}

impl Embedded {
    /// Starts what the settings do not name. `say` is told what is happening.
    pub(crate) async fn start(settings: &Settings, say: &impl Fn(&str)) -> Result<Self> {
        let data_dir = make_data_dir(&settings.data_dir)?;
        let lock = DirectoryLock::take(&data_dir)?;
        Running::withdraw(&data_dir);
        let mut memory = Memory::recall(&data_dir)?;
        // Kept before they are used, so that a start that is killed half way does not lose them.
        memory.keep(&data_dir)?;

        let postgres = match &settings.database_url {
            Some(_) => None,
            None => {
                say("starting the embedded Postgres");
                Some(
                    Postgres::start(
                        &data_dir,
                        settings.embedded.postgres_bin.as_deref(),
                        &mut memory,
                    )
                    .await?,
                )
            }
        };
        let broker = match &settings.kafka {
            Some(_) => None,
            None => {
                say("starting the embedded broker");
                Some(
                    Broker::start(&data_dir, settings.embedded.tools.as_deref(), &mut memory)
                        .await?,
                )
            }
        };
        let s3 = match &settings.s3 {
            Some(_) => None,
            None => Some(S3::start(&data_dir, &mut memory).await?),
        };
        memory.keep(&data_dir)?;

        let database_url = settings
            .database_url
            .clone()
            .or_else(|| postgres.as_ref().map(Postgres::url));
        let kafka = settings.kafka.clone().or_else(|| {
            broker.as_ref().map(|broker| KafkaSettings {
                brokers: broker.brokers(),
                properties: Default::default(),
            })
        });
        let s3_settings = settings
            .s3
            .clone()
            .or_else(|| s3.as_ref().map(|s3| s3.settings().clone()));
        let key_file = match settings.secrets.is_unset() {
            true => Some(key::make(&data_dir)?),
            false => None,
        };
        Ok(Self {
            data_dir,
            key_file,
            database_url: database_url.expect("either set or embedded"),
            kafka: kafka.expect("either set or embedded"),
            s3_settings: s3_settings.expect("either set or embedded"),
            postgres,
            broker,
            s3,
            _lock: lock,
        })
    }

    /// The settings of this process with the embedded services in the place of those that are not set.
    pub(crate) fn complete(&self, settings: &Settings) -> Settings {
        let secrets = match &self.key_file {
            Some(file) => SecretKeys::of_file(file.clone()),
            None => settings.secrets.clone(),
        };
        Settings {
            secrets,
            data_dir: self.data_dir.clone(),
            database_url: Some(self.database_url.clone()),
            kafka: Some(self.kafka.clone()),
            s3: Some(self.s3_settings.clone()),
            ..settings.clone()
        }
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Ends when a service ended by itself, with the reason.
    pub(crate) async fn broke(&self) -> Failure {
        let postgres = async {
            match &self.postgres {
                Some(postgres) => postgres
                    .child()
                    .ended_unasked(postgres.child().ended().await),
                None => pending().await,
            }
        };
        let broker = async {
            match &self.broker {
                Some(broker) => broker.child().ended_unasked(broker.child().ended().await),
                None => pending().await,
            }
        };
        tokio::select! {
            failure = postgres => failure,
            failure = broker => failure,
        }
    }

    /// Stops everything; the roles that use it have stopped before.
    pub(crate) async fn stop(&self) {
        Running::withdraw(&self.data_dir);
        let broker = async {
            if let Some(broker) = &self.broker {
                broker.stop().await;
            }
        };
        let postgres = async {
            if let Some(postgres) = &self.postgres {
                postgres.stop().await;
            }
        };
        let s3 = async {
            if let Some(s3) = &self.s3 {
                s3.stop().await;
            }
        };
        tokio::join!(broker, postgres, s3);
    }
}

/// A Postgres of its own and nothing else, for as long as a benchmark takes.
pub(crate) struct LonePostgres {
    postgres: Postgres,
    folder: PathBuf,
}

impl LonePostgres {
    /// Starts it over an empty folder.
    pub(crate) async fn start(folder: &Path, binaries: Option<&Path>) -> Result<Self> {
        let folder = make_data_dir(folder)?;
        let mut memory = Memory::recall(&folder)?;
        let postgres = Postgres::start(&folder, binaries, &mut memory).await?;
        Ok(Self { postgres, folder })
    }

    /// The address for clients, with the password.
    pub(crate) fn url(&self) -> String {
        self.postgres.url()
    }

    /// Stops it and removes all of its data.
    pub(crate) async fn stop(self) {
        self.postgres.stop().await;
        // Root's Postgres may live elsewhere, with a link to it.
        let home = self.folder.join("postgres");
        if let Ok(elsewhere) = std::fs::read_link(&home) {
            remove(&elsewhere);
        }
        remove(&self.folder);
    }
}

fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(%error, "`{}` could not be removed", folder.display());
    }
}

/// Makes the data directory and gives its absolute path: children run in folders of their own.
fn make_data_dir(named: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(named)
        .and_then(|()| std::fs::canonicalize(named))
        .map_err(|error| {
            Failure::invalid(format!(
                "cannot use the data directory `{}`",
                named.display()
            ))
            .because(error)
            .hint("choose another with --data-dir")
        })
}
