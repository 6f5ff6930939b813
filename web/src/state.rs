//! What every handler shares.

use std::{fmt, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use axum::http::StatusCode;
use pinwheel_scheduler::{
    engine::Changes,
    secrets::{Connection, Sources, Vault},
    store::Store,
};
use prometheus::proto::MetricFamily;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{Check, Reports, Streams, failure::Failure, metrics::Metrics};

/// Gives the metrics of one part of the process.
pub type Gather = Arc<dyn Fn() -> Vec<MetricFamily> + Send + Sync>;

/// Most live (server-sent event) connections at once; a browser tab holds one.
const LIVE_CONNECTIONS: usize = 200;

/// Tries whether a connection leads anywhere.
#[async_trait]
pub trait TestConnection: Send + Sync {
    /// Says what answered.
    ///
    /// # Errors
    /// Says why it does not work.
    async fn test(&self, connection: &Connection) -> Result<String, String>;
}

/// What the web role is given. Cheap to clone.
#[derive(Clone)]
pub struct WebState {
    /// Where everything shown comes from.
    pub(crate) store: Store,
    /// Tells when something may have changed: then live pages look again.
    pub(crate) changes: Changes,
    pub(crate) gather: Arc<[Gather]>,
    pub(crate) checks: Arc<[Arc<dyn Check>]>,
    /// Connections and variables.
    pub(crate) vault: Vault,
    /// Tries whether a connection works, where the process can.
    pub(crate) connection_test: Option<Arc<dyn TestConnection>>,
    /// The kept reports, where the process can read them.
    pub(crate) reports: Option<Arc<dyn Reports>>,
    pub(crate) metrics: Metrics,
    /// What the streaming workers keep, where the process can read it.
    pub(crate) streams: Option<Arc<dyn Streams>>,
    pub(crate) live: Arc<Semaphore>,
    /// The address we serve on; its IP is a good `Host`.
    pub(crate) bind: Option<SocketAddr>,
    /// Ends live connections when the process stops.
    pub(crate) stop: CancellationToken,
}

impl WebState {
    /// A state over `store`. `changes` keeps the pages live.
    pub fn new(store: Store, changes: Changes) -> Self {
        Self {
            vault: Vault::new(store.clone(), Sources::default()),
            connection_test: None,
            reports: None,
            store,
            changes,
            gather: Arc::new([]),
            checks: Arc::new([]),
            metrics: Metrics::new(),
            streams: None,
            live: Arc::new(Semaphore::new(LIVE_CONNECTIONS)),
            bind: None,
            stop: CancellationToken::new(),
        }
    }

    /// Lets people see streams.
    #[must_use]
    pub fn with_streams(mut self, streams: Arc<dyn Streams>) -> Self {
        self.streams = Some(streams);
        self
    }

    /// Adds metrics to `/metrics`, beside the web role's own.
    #[must_use]
    pub fn with_metrics(mut self, gather: Gather) -> Self {
        self.gather = self.gather.iter().cloned().chain([gather]).collect();
        self
    }

    /// Adds a dependency to `/readyz`, beside Postgres.
    #[must_use]
    pub fn with_check(mut self, check: Arc<dyn Check>) -> Self {
        self.checks = self.checks.iter().cloned().chain([check]).collect();
        self
    }

    /// Gives it the keys for connections and variables, and what the environment says of them.
    #[must_use]
    pub fn with_secrets(mut self, sources: Sources) -> Self {
        self.vault = Vault::new(self.store.clone(), sources);
        self
    }

    /// Lets people try connections.
    #[must_use]
    pub fn with_connection_test(mut self, test: Arc<dyn TestConnection>) -> Self {
        self.connection_test = Some(test);
        self
    }

    /// Lets people see kept reports.
    #[must_use]
    pub fn with_reports(mut self, reports: Arc<dyn Reports>) -> Self {
        self.reports = Some(reports);
        self
    }

    /// Takes one of the places for live connections.
    pub(crate) fn live_permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Failure> {
        self.live.clone().try_acquire_owned().map_err(|_| {
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, "Too many live connections")
                .detail(format!(
                    "{LIVE_CONNECTIONS} live connections are open already"
                ))
                .hint("close some tabs; this page still shows the state of its last load")
        })
    }
}

impl fmt::Debug for WebState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WebState")
            .field("bind", &self.bind)
            .finish_non_exhaustive()
    }
}
