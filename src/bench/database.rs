//! A database for a benchmark: a fresh one on the server that `--database-url` names, or on an embedded Postgres that is
//! started for it with its defaults, fsync on. Either is gone afterwards.

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions,
};

use crate::{
    embedded::LonePostgres,
    failure::{Failure, Result},
    progress::say,
    settings::Settings,
};

/// A fresh database.
pub(super) struct Database {
    /// Its address.
    pub(super) url: String,
    place: Place,
}

enum Place {
    Embedded(Box<LonePostgres>),
    Given {
        server: Box<PgConnectOptions>,
        name: String,
    },
}

impl Database {
    pub(super) async fn make(settings: &Settings) -> Result<Self> {
        match &settings.database_url {
            Some(url) => Self::on_server(url).await,
            None => Self::embedded(settings).await,
        }
    }

    async fn embedded(settings: &Settings) -> Result<Self> {
        say("starting an embedded Postgres for the benchmark");
        let folder = settings
            .data_dir
            .join(format!("bench-{}", std::process::id()));
        let postgres =
            LonePostgres::start(&folder, settings.embedded.postgres_bin.as_deref()).await?;
        Ok(Self {
            url: postgres.url(),
            place: Place::Embedded(Box::new(postgres)),
        })
    }

    async fn on_server(url: &str) -> Result<Self> {
        let server: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| {
            Failure::invalid("`database.url` is no Postgres URL").because(error)
        })?;
        let name = format!("pinwheel_bench_{}", std::process::id());
        say(&format!("making the database `{name}` for the benchmark"));
        let mut connection = PgConnection::connect_with(&server).await?;
        connection
            .execute(AssertSqlSafe(format!("create database {name}")))
            .await
            .map_err(|error| {
                Failure::failed(format!("cannot make the database `{name}`"))
                    .because(error)
                    .hint("name a user that may create databases, or leave `--database-url` out to use an embedded Postgres")
            })?;
        let url = server.clone().database(&name).to_url_lossy().to_string();
        Ok(Self {
            url,
            place: Place::Given {
                server: Box::new(server),
                name,
            },
        })
    }

    /// Takes everything away.
    pub(super) async fn drop(self) -> Result<()> {
        match self.place {
            Place::Embedded(postgres) => postgres.stop().await,
            Place::Given { server, name } => {
                let mut connection = PgConnection::connect_with(&server).await?;
                connection
                    .execute(AssertSqlSafe(format!("drop database {name} with (force)")))
                    .await?;
            }
        }
        Ok(())
    }
}
