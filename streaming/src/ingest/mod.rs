//! The ingest API: HTTP → Kafka.
//!
//! It owns the border: what is malformed is refused here with the name of the field, what is accepted is on the topic
//! as it came, byte for byte, before the answer leaves. It never interprets a value and keeps nothing on disk.

mod answer;
mod batch;
mod body;
mod pin;
mod publisher;

#[cfg(test)]
mod tests;

use std::{future::IntoFuture, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use pinwheel_tasks::KafkaSettings;
use prometheus::Registry;
use tokio::{net::TcpListener, sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use self::publisher::{Health, Publisher};
use crate::{kafka, metrics};
pub use pin::{KEY_FIELD, Wrong, check};

/// How long a request waits for its turn before it is answered with 429.
const TURN: Duration = Duration::from_millis(500);

/// How the ingest API runs.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// Where to listen (`ingest.bind`); port 0 takes a free one.
    pub bind: SocketAddr,
    /// Where Kafka is.
    pub kafka: KafkaSettings,
    /// The topic that gets the pins.
    pub topic: String,
    /// The number of partitions of the topic, if it must be created.
    pub partitions: i32,
    /// The replication factor of the topic, if it must be created.
    pub replication: i32,
    /// The largest body of one pin, in bytes; a compressed one counts as what it holds.
    pub body_limit: usize,
    /// The largest body of a batch, in bytes; a compressed one counts as what it holds.
    pub batch_limit: usize,
    /// How many pins a batch may have.
    pub batch_pins: usize,
    /// How many single posts are answered at the same time; memory is bounded by this times `body_limit`.
    pub concurrency: usize,
    /// How many batches are answered at the same time.
    pub batch_concurrency: usize,
    /// How much the local queue to the broker holds, in bytes, before posts are answered with 429.
    pub queue_bytes: usize,
    /// How long the broker may take to acknowledge before the answer is 503.
    pub delivery_timeout: Duration,
    /// How long requests under way may take after the stop.
    pub drain: Duration,
    /// Where the metrics are counted and what `/metrics` shows.
    pub registry: Registry,
}

impl IngestOptions {
    /// Options with the defaults that fit most.
    pub fn new(bind: SocketAddr, kafka: KafkaSettings, topic: impl Into<String>) -> Self {
        Self {
            bind,
            kafka,
            topic: topic.into(),
            partitions: 4,
            replication: 1,
            body_limit: 64 * 1024,
            batch_limit: 8 * 1024 * 1024,
            batch_pins: 10_000,
            concurrency: 4096,
            batch_concurrency: 8,
            queue_bytes: 64 * 1024 * 1024,
            delivery_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(15),
            registry: Registry::new(),
        }
    }
}

/// Why the ingest API does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be bound.
    #[error("cannot listen on `{address}`, the setting `ingest.bind`: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The Kafka settings are not valid.
    #[error("the Kafka settings are not valid: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// The server failed.
    #[error("the ingest server stopped: {0}")]
    Serve(io::Error),
}

/// A bound ingest API.
pub struct Ingest {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    drain: Duration,
}

struct Shared {
    publisher: Arc<Publisher>,
    topic: String,
    /// The topic's name as JSON, for answers.
    topic_json: String,
    body_limit: usize,
    batch_limit: usize,
    batch_pins: usize,
    singles: Semaphore,
    batches: Semaphore,
    metrics: metrics::Ingest,
    registry: Registry,
}

/// Binds and runs the ingest API until `shutdown`.
///
/// # Errors
///
/// See [`Ingest::bind`] and [`Ingest::run`].
pub async fn serve(options: IngestOptions, shutdown: CancellationToken) -> Result<(), Error> {
    Ingest::bind(options).await?.run(shutdown).await
}

impl Ingest {
    /// Takes the address. The broker need not be there yet.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound or a Kafka property is not valid.
    pub async fn bind(options: IngestOptions) -> Result<Self, Error> {
        let bound = TcpListener::bind(options.bind).await;
        let listener = bound.map_err(|source| Error::Bind {
            address: options.bind,
            source,
        })?;
        let address = listener.local_addr().map_err(|source| Error::Bind {
            address: options.bind,
            source,
        })?;
        let publisher = Publisher::new(
            options.kafka,
            options.topic.clone(),
            options.partitions,
            options.replication,
            options.delivery_timeout,
            options.queue_bytes,
        )?;
        let shared = Arc::new(Shared {
            publisher: Arc::new(publisher),
            topic_json: serde_json::Value::from(options.topic.as_str()).to_string(),
            topic: options.topic,
            body_limit: options.body_limit,
            batch_limit: options.batch_limit,
            batch_pins: options.batch_pins,
            singles: Semaphore::new(options.concurrency),
            batches: Semaphore::new(options.batch_concurrency),
            metrics: metrics::Ingest::register(&options.registry),
            registry: options.registry,
        });
        Ok(Self {
            listener,
            address,
            shared,
            drain: options.drain,
        })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown`, then finishes the requests under way and flushes the producer.
    ///
    /// # Errors
    ///
    /// When the server's socket fails.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self {
            listener,
            address,
            shared,
            drain,
        } = self;
        let stop_monitor = CancellationToken::new();
        let monitor = tokio::spawn(
            Arc::clone(&shared.publisher).monitor(shared.metrics.clone(), stop_monitor.clone()),
        );
        // A monitor that dies would leave the last health in place for ever, so its end is the server's end.
        let monitor_died = CancellationToken::new();
        let watched = tokio::spawn({
            let monitor_died = monitor_died.clone();
            async move {
                if monitor.await.is_err() {
                    monitor_died.cancel();
                }
            }
        });
        tracing::info!(%address, topic = shared.topic, "ingest: listening on http://{address}");

        let stopping = CancellationToken::new();
        let listener = listener.tap_io(|connection| {
            if let Err(error) = connection.set_nodelay(true) {
                tracing::debug!(%error, "ingest: TCP_NODELAY not set");
            }
        });
        let server = axum::serve(listener, router(Arc::clone(&shared)))
            .with_graceful_shutdown(stopping.clone().cancelled_owned());
        let mut server = std::pin::pin!(server.into_future());
        let served = tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            () = monitor_died.cancelled() => Some(Err(io::Error::other("the broker's monitor died"))),
            served = &mut server => Some(served),
        };
        let served = match served {
            Some(served) => served,
            None => {
                stopping.cancel();
                let drained = tokio::time::timeout(drain, server).await;
                drained.unwrap_or_else(|_| {
                    tracing::warn!(
                        drain_ms = drain.as_millis(),
                        "ingest: connections were still open after the drain time and are cut"
                    );
                    Ok(())
                })
            }
        };
        let publisher = Arc::clone(&shared.publisher);
        drop(shared);
        // Flushing and dropping the producer block; requests whose client left may still have messages under way.
        kafka::blocking(move || {
            if let Err(error) = publisher.flush(drain) {
                tracing::warn!(%error, "ingest: not everything was acknowledged before the stop: {error}");
            }
        })
        .await;
        stop_monitor.cancel();
        if let Err(error) = watched.await {
            tracing::warn!(%error, "ingest: the watcher of the monitor ended badly: {error}");
        }
        served.map_err(Error::Serve)
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/pin/", post(post_pin))
        .route("/pin", post(post_pin))
        .route("/pins/", post(batch::post_pins))
        .route("/pins", post(batch::post_pins))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(show_metrics))
        .with_state(shared)
}

async fn post_pin(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let started = Instant::now();
    let _in_flight = InFlight::new(&shared.metrics.in_flight);
    if is_foreign(request.headers()) {
        return answer::foreign();
    }
    let Ok(Ok(_turn)) = tokio::time::timeout(TURN, shared.singles.acquire()).await else {
        return answer::busy(&shared, 1);
    };
    let body = match body::read(request, shared.body_limit).await {
        // Some tens of kilobytes are inflated in less time than another thread takes to wake up.
        Ok(body) => body.open(shared.body_limit).map_err(|answer| *answer),
        Err(response) => Err(response),
    };
    let body = match body {
        Ok(body) => body,
        Err(response) => {
            shared.metrics.posts.with_label_values(&["invalid"]).inc();
            return response;
        }
    };
    let key = match check(&body) {
        Ok(key) => key,
        Err(wrong) => {
            shared.metrics.posts.with_label_values(&["invalid"]).inc();
            return answer::invalid(&wrong);
        }
    };
    let delivery = match shared.publisher.enqueue(&key, &body) {
        Ok(delivery) => delivery,
        Err(refused) => return answer::refused(&shared, &refused),
    };
    match shared.publisher.acknowledged(delivery).await {
        Ok(place) => {
            shared.metrics.accepted.inc();
            shared
                .metrics
                .acknowledged
                .observe(started.elapsed().as_secs_f64());
            answer::accepted(&shared.topic_json, place)
        }
        Err(refused) => answer::refused(&shared, &refused),
    }
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let _in_flight = InFlight::new(&shared.metrics.in_flight);
    match shared.publisher.health() {
        Health::Ready => "ready\n".into_response(),
        Health::Away { reason } => answer::unavailable(&reason),
    }
}

async fn show_metrics(State(shared): State<Arc<Shared>>) -> Response {
    let _in_flight = InFlight::new(&shared.metrics.in_flight);
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        metrics::render(&shared.registry),
    )
        .into_response()
}

/// A request that is being answered, for the gauge.
struct InFlight<'g>(&'g prometheus::IntGauge);

impl<'g> InFlight<'g> {
    fn new(gauge: &'g prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A page of another site that a browser on this machine has open must not post pins: browsers say where a post comes
/// from, programs do not. Asked by every handler of posts: a middleware copies each request and its future around it.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &axum::http::HeaderValue| value.to_str().ok())
    };
    let Some(origin) = headers.get(header::ORIGIN) else {
        return false;
    };
    let origin_host = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"))
        .map(|(_, host)| host);
    origin_host.is_none() || origin_host != text(header::HOST)
}
