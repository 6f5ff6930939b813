//! Puts the routers together and serves them: pages and API, and what machines ask of roles without pages.

use std::{future::ready, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::StatusCode,
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};

use crate::{
    Gather, WebState,
    failure::{self, Failure},
    guard, health, metrics, routes,
};

const WEB_BIND: &str = "web.bind";
const METRICS_BIND: &str = "metrics.bind";
/// The largest request body: params of a run fit many times over.
const BODY_LIMIT: usize = 1024 * 1024;
/// The longest a request may take until the head of its answer. Live connections and long logs stream after it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long open requests may finish after the shutdown signal.
const GRACE: Duration = Duration::from_secs(5);

/// Settings of the web role.
#[derive(Debug, Clone)]
pub struct WebOptions {
    /// `web.bind`: where pages and API are served.
    pub bind: SocketAddr,
}

impl Default for WebOptions {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
        }
    }
}

impl WebOptions {
    /// Binds the address.
    ///
    /// # Errors
    /// [`Error::NotLoopback`] for an address that other machines reach, [`Error::Bind`] when it is in use.
    pub async fn listen(&self) -> Result<TcpListener, Error> {
        listen(WEB_BIND, self.bind).await
    }
}

/// Settings of `/metrics` and `/healthz` for a role that serves no pages.
#[derive(Debug, Clone)]
pub struct MetricsOptions {
    /// `metrics.bind`: where they are served.
    pub bind: SocketAddr,
}

impl MetricsOptions {
    /// Binds the address.
    ///
    /// # Errors
    /// As [`WebOptions::listen`].
    pub async fn listen(&self) -> Result<TcpListener, Error> {
        listen(METRICS_BIND, self.bind).await
    }
}

async fn listen(setting: &'static str, bind: SocketAddr) -> Result<TcpListener, Error> {
    refuse_strangers(setting, bind)?;
    TcpListener::bind(bind).await.map_err(|source| Error::Bind {
        setting,
        bind,
        source,
    })
}

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Anybody on the network could steer the DAGs: nothing authenticates them yet.
    #[error(
        "`{setting}` is `{bind}`, which other machines can reach, and there is no authentication yet to keep them out; bind a loopback address such as `127.0.0.1:8080` and reach it through an SSH tunnel"
    )]
    NotLoopback {
        /// The setting that names it.
        setting: &'static str,
        /// The address.
        bind: SocketAddr,
    },
    /// The address cannot be bound.
    #[error("`{setting}` is `{bind}`, which cannot be bound: {source}")]
    Bind {
        /// The setting that names it.
        setting: &'static str,
        /// The address.
        bind: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The listener broke.
    #[error("the web server stopped: {0}")]
    Serve(#[from] std::io::Error),
}

fn refuse_strangers(setting: &'static str, bind: SocketAddr) -> Result<(), Error> {
    if bind.ip().to_canonical().is_loopback() {
        Ok(())
    } else {
        Err(Error::NotLoopback { setting, bind })
    }
}

/// The pages, the API and what guards them, without a listener.
pub fn router(state: WebState) -> Router {
    routes::build()
        .fallback(|| async {
            Failure::new(StatusCode::NOT_FOUND, "Nothing is here")
                .detail("no page or endpoint has this address")
        })
        .method_not_allowed_fallback(|| async {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "Not this way")
                .detail("this address does not take this HTTP method")
        })
        .with_state(state.clone())
        .layer(CatchPanicLayer::custom(panicked))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::SERVICE_UNAVAILABLE,
            REQUEST_TIMEOUT,
        ))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn(guard::same_origin))
        .layer(from_fn_with_state(state.bind, guard::known_host))
        .layer(from_fn(failure::present))
        .layer(from_fn(guard::headers))
        .route_layer(from_fn_with_state(state, metrics::measure))
}

/// Serves until `shutdown` fires, then ends live connections and lets requests finish for a moment.
///
/// # Errors
/// [`Error::NotLoopback`] before anything is served; [`Error::Serve`] when the listener breaks.
pub async fn serve(
    listener: TcpListener,
    mut state: WebState,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let bind = listener.local_addr()?;
    refuse_strangers(WEB_BIND, bind)?;
    state.bind = Some(bind);
    state.stop = shutdown.child_token();
    serve_router(listener, router(state), shutdown).await
}

/// `/metrics` and `/healthz`, and nothing else, without a listener. `bind` is the address it is served on.
pub fn metrics_router(gather: Vec<Gather>, bind: Option<SocketAddr>) -> Router {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route(
            "/metrics",
            get(move || ready(health::as_text(&health::gathered(&gather)))),
        )
        .layer(from_fn_with_state(bind, guard::known_host))
        .layer(from_fn(guard::headers))
}

/// Serves `/metrics` and `/healthz` until `shutdown` fires, for a role that serves no pages.
///
/// # Errors
/// [`Error::NotLoopback`] before anything is served; [`Error::Serve`] when the listener breaks.
pub async fn serve_metrics(
    listener: TcpListener,
    gather: Vec<Gather>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let bind = listener.local_addr()?;
    refuse_strangers(METRICS_BIND, bind)?;
    serve_router(listener, metrics_router(gather, Some(bind)), shutdown).await
}

async fn serve_router(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let signal = shutdown.clone();
    let server = axum::serve(listener, router)
        .with_graceful_shutdown(async move { signal.cancelled().await });
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        served = server => Ok(served?),
        () = overdue => Ok(()),
    }
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(message, "a request handler panicked");
    Failure::internal().into_response()
}
