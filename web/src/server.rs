//! Puts the router together and serves it.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::StatusCode,
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};

use crate::{
    WebState,
    failure::{self, Failure},
    guard, metrics, routes,
};

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
        refuse_strangers(self.bind)?;
        TcpListener::bind(self.bind)
            .await
            .map_err(|source| Error::Bind {
                bind: self.bind,
                source,
            })
    }
}

/// Why the web role cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Anybody on the network could steer the DAGs: nothing authenticates them yet.
    #[error(
        "`web.bind` is `{0}`, which other machines can reach, and there is no authentication yet to keep them out; bind a loopback address such as `127.0.0.1:8080` and reach it through an SSH tunnel"
    )]
    NotLoopback(SocketAddr),
    /// The address cannot be bound.
    #[error("`web.bind` is `{bind}`, which cannot be bound: {source}")]
    Bind {
        /// The address.
        bind: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The listener broke.
    #[error("the web server stopped: {0}")]
    Serve(#[from] std::io::Error),
}

fn refuse_strangers(bind: SocketAddr) -> Result<(), Error> {
    if bind.ip().to_canonical().is_loopback() {
        Ok(())
    } else {
        Err(Error::NotLoopback(bind))
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
        .layer(from_fn_with_state(state.clone(), guard::known_host))
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
    refuse_strangers(bind)?;
    state.bind = Some(bind);
    state.stop = shutdown.child_token();
    let signal = shutdown.clone();
    let server = axum::serve(listener, router(state))
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
