//! `pinwheel standalone`: every role in one process, over embedded services where the settings name none.

use std::time::Duration;

use chrono::Utc;
use pinwheel_scheduler::{
    engine::{Engine, Roles},
    store::Store,
};
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    embedded::{Embedded, Running},
    failure::{Failure, Result},
    progress::say,
    roles::{self, EngineParts},
    settings::Settings,
    shutdown,
};

/// The bundled pins: 200 real records, one JSON object a line.
pub(crate) const PINS: &str = include_str!("../data/pins.ndjson");
/// How long a running task may go on after Ctrl-C unless the settings say. Whatever does not end by then is run again at the
/// next start.
const GRACE: Duration = Duration::from_secs(10);

/// `pinwheel standalone`
pub(crate) async fn run(settings: &Settings) -> Result<()> {
    let shutdown = shutdown::token();
    let Some(mut standalone) = Standalone::start(settings, &shutdown).await? else {
        return Ok(());
    };
    say(&format!(
        "ready: pages on {}, pins go to {}; Ctrl-C stops it",
        standalone.running.web_url,
        pin_url(&standalone.running.ingest_url)
    ));
    standalone.stay_up(&shutdown).await
}

/// Where pins are posted.
pub(crate) fn pin_url(ingest_url: &str) -> String {
    format!("{}/pin/", ingest_url.trim_end_matches('/'))
}

/// Every role, running.
pub(crate) struct Standalone {
    pub(crate) running: Running,
    pub(crate) store: Store,
    pub(crate) engine: Engine,
    /// The settings, completed by the embedded services.
    pub(crate) settings: Settings,
    embedded: Embedded,
    /// Web, ingest and streams; each ends when `stop_roles` fires.
    roles: JoinSet<(Role, Result<()>)>,
    stop_roles: CancellationToken,
}

/// A role with an end of its own.
#[derive(Debug, Clone)]
enum Role {
    Web,
    Ingest,
    /// A stream; its name.
    Stream(String),
}

impl Standalone {
    /// Starts services and roles. `None` when we were asked to stop meanwhile.
    pub(crate) async fn start(
        settings: &Settings,
        shutdown: &CancellationToken,
    ) -> Result<Option<Self>> {
        // Ports first: a person whose port is taken wants to know before a database is made.
        let web = roles::listen_web(settings).await?;
        roles::check_ingest_port(settings).await?;
        let embedded = Embedded::start(settings, &say).await?;
        let settings = embedded.complete(settings);
        match Self::start_roles(&settings, &embedded, web, shutdown).await {
            Ok(Some(started)) => Ok(Some(started.over(embedded, settings))),
            Ok(None) => {
                embedded.stop().await;
                Ok(None)
            }
            Err(failure) => {
                embedded.stop().await;
                Err(failure)
            }
        }
    }

    async fn start_roles(
        settings: &Settings,
        embedded: &Embedded,
        web: TcpListener,
        shutdown: &CancellationToken,
    ) -> Result<Option<Started>> {
        let database_url = settings.require_database("standalone")?;
        let kafka = settings.require_kafka("standalone")?;
        let s3 = settings.require_s3("standalone")?;
        let metrics = prometheus::Registry::new();

        say("bringing the database to the schema of this version");
        let Some(store) = roles::connect(database_url, shutdown).await? else {
            return Ok(None);
        };
        roles::migrate_live(database_url).await?;

        let ingest = roles::bind_ingest(settings, kafka, metrics.clone()).await?;
        let streams = roles::stream_workers(settings, kafka, database_url, &metrics)?;
        let (registry, on_lease) = roles::guarded_work(settings, "standalone").await?;
        say(&format!(
            "loading the DAGs of {}",
            settings.dags_folder.display()
        ));
        let parts = EngineParts {
            registry,
            roles: Roles::Both,
            grace: settings.worker.grace.unwrap_or(GRACE),
            on_lease,
        };
        let web_url = format!("http://{}", roles::local_address(&web)?);
        let settings = &settings.linking_to_itself(&web_url);
        let engine = roles::start_engine(settings, store.clone(), parts).await?;

        let running = Running {
            pid: std::process::id(),
            started_at: Utc::now(),
            database_url: database_url.to_owned(),
            kafka: kafka.clone(),
            s3: s3.clone(),
            web_url,
            ingest_url: format!("http://{}", ingest.address()),
            dags_folder: settings.dags_folder.clone(),
        };
        let stop_roles = CancellationToken::new();
        let mut tasks = JoinSet::new();
        {
            let (store, changes, settings, stop) = (
                store.clone(),
                engine.changes(),
                settings.clone(),
                stop_roles.clone(),
            );
            tasks.spawn(async move {
                (
                    Role::Web,
                    roles::serve_web(web, store, changes, &settings, metrics, stop).await,
                )
            });
        }
        let stop = stop_roles.clone();
        tasks.spawn(async move { (Role::Ingest, ingest.run(stop).await.map_err(Failure::from)) });
        for (name, worker) in streams {
            let stop = stop_roles.clone();
            tasks.spawn(async move {
                (
                    Role::Stream(name),
                    worker.run(stop).await.map_err(Failure::from),
                )
            });
        }
        running.announce(embedded.data_dir())?;
        Ok(Some(Started {
            running,
            store,
            engine,
            roles: tasks,
            stop_roles,
        }))
    }

    /// Stays up until the process is asked to stop or something that must not end does; then stops in order.
    pub(crate) async fn stay_up(&mut self, shutdown: &CancellationToken) -> Result<()> {
        let ended = tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(()),
            failure = self.broke() => Err(failure),
        };
        self.stop().await;
        ended
    }

    /// Ends when a part that must not end has ended, with the reason.
    pub(crate) async fn broke(&mut self) -> Failure {
        loop {
            let ended = tokio::select! {
                failure = self.embedded.broke() => return failure,
                () = self.engine.broken() => return Failure::failed(roles::ENGINE_BROKE),
                Some(ended) = self.roles.join_next() => ended,
            };
            if let Some(failure) = verdict(ended) {
                return failure;
            }
        }
    }

    /// Ends when an embedded service ended by itself, with the reason.
    pub(crate) async fn services_broke(&self) -> Failure {
        self.embedded.broke().await
    }

    /// Stops what takes work in, then what works, then what everything stands on.
    pub(crate) async fn stop(&mut self) {
        // From here on a second signal is heard, and hastens the engine's stop below.
        let _hastened_below = shutdown::hurry();
        self.stop_roles.cancel();
        while let Some(ended) = self.roles.join_next().await {
            if let Ok((role, Err(failure))) = ended {
                tracing::warn!(?role, "{role:?} did not end well: {failure}");
            }
        }
        let grace = self.settings.worker.grace.unwrap_or(GRACE);
        roles::stop_engine(&self.engine, grace).await;
        self.embedded.stop().await;
    }
}

/// The roles before they own the services they stand on.
struct Started {
    running: Running,
    store: Store,
    engine: Engine,
    roles: JoinSet<(Role, Result<()>)>,
    stop_roles: CancellationToken,
}

impl Started {
    fn over(self, embedded: Embedded, settings: Settings) -> Standalone {
        let Self {
            running,
            store,
            engine,
            roles,
            stop_roles,
        } = self;
        Standalone {
            running,
            store,
            engine,
            settings,
            embedded,
            roles,
            stop_roles,
        }
    }
}

/// What the end of a role means. One stream that cannot go on (its table was changed, its offsets are gone) is told and
/// shown; the orchestrator goes on. Without pages or ingest API nobody could see anything, so their end is ours.
fn verdict(ended: std::result::Result<(Role, Result<()>), JoinError>) -> Option<Failure> {
    match ended {
        Ok((Role::Stream(name), Err(failure))) => {
            tracing::error!(stream = name, "stream `{name}` has stopped: {failure}");
            None
        }
        Ok((Role::Stream(_), Ok(()))) => None,
        Ok((Role::Web | Role::Ingest, Err(failure))) => Some(failure),
        Ok((role @ (Role::Web | Role::Ingest), Ok(()))) => Some(Failure::failed(format!(
            "{role:?} ended although nobody asked it to"
        ))),
        Err(error) => Some(Failure::failed("a role broke").because(error)),
    }
}
