//! The roles: how each is put together from settings, and how it runs by itself. `standalone` runs all of them.
//!
//! A role that cannot reach a service says so, waits with growing pauses, and goes on when the service is back. It ends by
//! itself only for what waiting cannot mend.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use pinwheel_scheduler::{
    engine::{self, Changes, Delivery, Engine, OnLease, Roles, SystemClock},
    store::Store,
};
use pinwheel_streaming::{
    ingest::{self, Ingest, IngestOptions},
    live,
    worker::{self, StreamDefinition, Worker, WorkerOptions},
};
use pinwheel_tasks::{
    KafkaSettings, Registry, S3Settings, Warden, duration, kafka, s3::ObjectStore,
};
use pinwheel_web::{Check, Gather, MetricsOptions, WebOptions, WebState};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    connection_test::Tester,
    failure::{Failure, Result},
    kept_reports::KeptReports,
    progress::say,
    registry,
    settings::{IngestLimits, Settings},
    shutdown,
    stream_pages::LiveStreams,
};

/// How long running tasks may go on after a worker was asked to stop, unless the settings say.
const GRACE: Duration = Duration::from_secs(30);
/// The topic that posted pins go to.
pub(crate) const PINS_TOPIC: &str = "pins";
/// What is said when a loop broke that the engine cannot do without.
pub(crate) const ENGINE_BROKE: &str = "the engine cannot go on; its log says which loop broke";

/// `pinwheel scheduler`
pub(crate) async fn run_scheduler(settings: &Settings) -> Result<()> {
    let url = settings.require_database("scheduler")?;
    let registry = registry::for_checks(&settings.dags_folder).await?;
    let engine = EngineParts {
        registry,
        roles: Roles::Scheduler,
        grace: Duration::ZERO,
        on_lease: OnLease::default(),
    };
    run_engine(settings, "scheduler", url, engine).await
}

/// `pinwheel worker`
pub(crate) async fn run_worker(settings: &Settings) -> Result<()> {
    let url = settings.require_database("worker")?;
    let (registry, on_lease) = guarded_work(settings, "worker").await?;
    let engine = EngineParts {
        registry,
        roles: Roles::Worker,
        grace: settings.worker.grace.unwrap_or(GRACE),
        on_lease,
    };
    run_engine(settings, "worker", url, engine).await
}

/// The kinds of a worker, and who has to hear of its lease so that no process of a task outlives it.
pub(crate) async fn guarded_work(settings: &Settings, role: &str) -> Result<(Registry, OnLease)> {
    // The very file that runs, though it may have been replaced meanwhile: both ends of the pipe must be of one version.
    let warden = Warden::new("/proc/self/exe", ["warden"]);
    let registry = registry::for_work(settings, role, warden.clone()).await?;
    let on_lease = OnLease::new(move |until| warden.trust_until(until));
    Ok((registry, on_lease))
}

/// What makes one engine different from another.
pub(crate) struct EngineParts {
    pub(crate) registry: Registry,
    pub(crate) roles: Roles,
    /// How long running tasks may go on after the process was asked to stop.
    pub(crate) grace: Duration,
    pub(crate) on_lease: OnLease,
}

async fn run_engine(settings: &Settings, role: &str, url: &str, parts: EngineParts) -> Result<()> {
    let shutdown = shutdown::token();
    let metrics = Metrics::serve(
        settings,
        vec![Arc::new(pinwheel_scheduler::metrics::gather)],
    )
    .await?;
    let Some(store) = connect(url, &shutdown).await? else {
        return Ok(());
    };
    let (roles, grace) = (parts.roles, parts.grace);
    let engine = start_engine(settings, store, parts).await?;
    say(&match roles {
        Roles::Scheduler => format!("{role} ready; Ctrl-C stops it"),
        Roles::Worker | Roles::Both => format!(
            "{role} ready: {} slots; Ctrl-C stops it",
            settings.worker.slots
        ),
    });
    let ended = tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        () = engine.broken() => Err(Failure::failed(ENGINE_BROKE)),
    };
    stop_engine(&engine, grace).await;
    metrics.end().await;
    ended
}

/// Stops an engine in good order, and says how. What runs is handed back when `grace` is over, or at a second signal.
pub(crate) async fn stop_engine(engine: &Engine, grace: Duration) {
    let hurry = shutdown::hurry();
    say(&stopping(engine.running_tasks(), grace));
    let say_the_rest = async {
        tokio::select! {
            biased;
            () = hurry.cancelled() => {
                say("handing back what still runs");
                engine.stop_now();
            }
            () = tokio::time::sleep(grace) => {
                if engine.running_tasks() > 0 {
                    say("the grace is over; handing back what still runs");
                }
                hurry.cancelled().await;
                engine.stop_now();
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = engine.clone().stop() => {}
        () = say_the_rest => {}
    }
}

fn stopping(running: usize, grace: Duration) -> String {
    let tasks = match running {
        0 => return "stopping".to_owned(),
        1 => "1 running task".to_owned(),
        several => format!("{several} running tasks"),
    };
    format!(
        "stopping: waiting up to {} for {tasks}; Ctrl-C again hands them back now",
        duration::text(grace)
    )
}

/// `/metrics` and `/healthz` of a role that serves nothing else, while it is up; nothing when nobody asked for them.
struct Metrics {
    served: Option<JoinHandle<std::result::Result<(), pinwheel_web::Error>>>,
    stop: CancellationToken,
}

impl Metrics {
    async fn serve(settings: &Settings, gather: Vec<Gather>) -> Result<Self> {
        let stop = CancellationToken::new();
        let served = match settings.metrics_bind {
            None => None,
            Some(bind) => {
                let listener = MetricsOptions { bind }.listen().await?;
                say(&format!(
                    "metrics on http://{}/metrics",
                    local_address(&listener)?
                ));
                Some(tokio::spawn(pinwheel_web::serve_metrics(
                    listener,
                    gather,
                    stop.clone(),
                )))
            }
        };
        Ok(Self { served, stop })
    }

    /// Ends last, so that a stop can be watched. A role works without its metrics, so their failure is only told.
    async fn end(self) {
        self.stop.cancel();
        if let Some(served) = self.served
            && let Err(error) = served.await.expect("serving does not panic")
        {
            tracing::warn!(%error, "the metrics were not served to the end");
        }
    }
}

/// `pinwheel web`
pub(crate) async fn run_web(settings: &Settings) -> Result<()> {
    let url = settings.require_database("web")?;
    let shutdown = shutdown::token();
    let listener = listen_web(settings).await?;
    let address = local_address(&listener)?;
    let Some(store) = connect(url, &shutdown).await? else {
        return Ok(());
    };
    let listen = async || Ok(Changes::listen(&store).await?);
    let Some(changes) = patiently(&shutdown, listen).await? else {
        return Ok(());
    };
    say(&format!("web ready: http://{address}"));
    serve_web(
        listener,
        store,
        changes,
        settings,
        prometheus::Registry::new(),
        shutdown,
    )
    .await
}

/// `pinwheel ingest`
pub(crate) async fn run_ingest(settings: &Settings) -> Result<()> {
    let kafka = settings.require_kafka("ingest")?;
    let shutdown = shutdown::token();
    let ingest = bind_ingest(settings, kafka, prometheus::Registry::new()).await?;
    say(&format!(
        "ingest ready: POST http://{}/pin/",
        ingest.address()
    ));
    Ok(ingest.run(shutdown).await?)
}

/// `pinwheel stream`
pub(crate) async fn run_stream(settings: &Settings) -> Result<()> {
    let kafka = settings.require_kafka("stream")?;
    let url = settings.require_database("stream")?;
    let shutdown = shutdown::token();
    let registry = prometheus::Registry::new();
    let metrics = {
        let registry = registry.clone();
        Metrics::serve(settings, vec![Arc::new(move || registry.gather())]).await?
    };
    let mut workers = JoinSet::new();
    for (_, worker) in stream_workers(settings, kafka, url, &registry)? {
        workers.spawn(worker.run(shutdown.clone()));
    }
    say(&format!(
        "stream ready: {} workers for the streams of {}",
        workers.len(),
        settings.dags_folder.display()
    ));
    let mut first_failure = Ok(());
    while let Some(ended) = workers.join_next().await {
        let ended = ended.expect("a streaming worker does not panic");
        if let (Err(error), Ok(())) = (ended, &first_failure) {
            // One stream that cannot go on stops the process, so that whoever watches processes sees it.
            shutdown.cancel();
            first_failure = Err(Failure::from(error));
        }
    }
    metrics.end().await;
    first_failure
}

/// Connects to the database and brings it to our schema, waiting while it is away. `None` when we were asked to stop
/// first.
pub(crate) async fn connect(url: &str, shutdown: &CancellationToken) -> Result<Option<Store>> {
    patiently(shutdown, async || Ok(connect_once(url).await?)).await
}

/// Does what needs the database, again with growing pauses while it is away. `None` when we were asked to stop first.
async fn patiently<T>(
    shutdown: &CancellationToken,
    mut attempt: impl AsyncFnMut() -> std::result::Result<T, engine::Error>,
) -> Result<Option<T>> {
    let mut wait = Duration::from_millis(200);
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(Some(done)),
            Err(engine::Error::Store(error)) if error.is_unavailable() => error,
            Err(error) => return Err(error.into()),
        };
        tracing::warn!(
            wait_ms = wait.as_millis(),
            "waiting for the database: {error}"
        );
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(Duration::from_secs(10));
    }
}

async fn connect_once(url: &str) -> std::result::Result<Store, pinwheel_scheduler::store::Error> {
    let store = Store::connect(url).await?;
    store.migrate().await?;
    Ok(store)
}

/// Starts the loops of a scheduler, a worker or both.
pub(crate) async fn start_engine(
    settings: &Settings,
    store: Store,
    parts: EngineParts,
) -> Result<Engine> {
    let EngineParts {
        registry,
        roles,
        grace,
        on_lease,
    } = parts;
    let watches_files = match roles {
        Roles::Scheduler | Roles::Both => true,
        Roles::Worker => false,
    };
    let options = engine::Options {
        name: settings.worker.name.clone().unwrap_or_else(process_name),
        queues: settings.worker.queues.clone(),
        labels: settings.worker.labels.clone(),
        slots: settings.worker.slots,
        dag_folder: watches_files.then(|| settings.dags_folder.clone()),
        lease: settings.worker.lease,
        heartbeat: settings.worker.heartbeat,
        grace,
        on_lease,
        delivery: Delivery::by(settings.channels.clone()),
        retention: settings.retention,
        secrets: settings.secrets.sources()?,
        ..engine::Options::default()
    };
    // The database was there a moment ago; it may go away before the lease is open.
    let start = async || {
        let clock = Arc::new(SystemClock::new());
        Engine::start(
            store.clone(),
            registry.clone(),
            roles,
            options.clone(),
            clock,
        )
        .await
    };
    patiently(&shutdown::token(), start)
        .await?
        .ok_or_else(|| Failure::failed("asked to stop before the engine could start"))
}

fn process_name() -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|host| host.into_string().ok());
    format!(
        "{}-{}",
        host.as_deref().unwrap_or("localhost"),
        std::process::id()
    )
}

/// Takes the address of the pages.
pub(crate) async fn listen_web(settings: &Settings) -> Result<TcpListener> {
    Ok(WebOptions {
        bind: settings.web_bind,
    }
    .listen()
    .await?)
}

/// The address that was really taken, which a port 0 leaves open.
pub(crate) fn local_address(listener: &TcpListener) -> Result<SocketAddr> {
    listener
        .local_addr()
        .map_err(|error| Failure::failed("the listener has no address").because(error))
}

/// Serves pages and API until `shutdown`.
pub(crate) async fn serve_web(
    listener: TcpListener,
    store: Store,
    changes: Changes,
    settings: &Settings,
    metrics: prometheus::Registry,
    shutdown: CancellationToken,
) -> Result<()> {
    let mut state = WebState::new(store, changes)
        .with_secrets(settings.secrets.sources()?)
        .with_connection_test(Arc::new(Tester))
        .with_metrics(Arc::new(pinwheel_scheduler::metrics::gather))
        .with_metrics(Arc::new(move || metrics.gather()));
    if let Some(url) = &settings.database_url {
        state = state.with_streams(Arc::new(LiveStreams(live::connect(url)?)));
    }
    if let Some(kafka) = &settings.kafka {
        state = state.with_check(Arc::new(KafkaCheck(kafka.clone())));
    }
    if let Some(s3) = &settings.s3 {
        let kept = KeptReports::new(s3, settings.reports_prefix.clone()).await;
        state = state.with_reports(Arc::new(kept));
        state = state.with_check(Arc::new(S3Check::new(s3).await));
    }
    Ok(pinwheel_web::serve(listener, state, shutdown).await?)
}

struct KafkaCheck(KafkaSettings);

#[async_trait]
impl Check for KafkaCheck {
    fn name(&self) -> &str {
        "kafka"
    }

    async fn check(&self) -> std::result::Result<(), String> {
        kafka::ping(&self.0, Duration::from_secs(2))
            .await
            .map_err(|failure| failure.message)
    }
}

struct S3Check(ObjectStore);

impl S3Check {
    async fn new(settings: &S3Settings) -> Self {
        Self(ObjectStore::connect(settings).await)
    }
}

#[async_trait]
impl Check for S3Check {
    fn name(&self) -> &str {
        "s3"
    }

    async fn check(&self) -> std::result::Result<(), String> {
        self.0.ping().await.map_err(|error| error.to_string())
    }
}

/// Takes the address of the ingest API.
pub(crate) async fn bind_ingest(
    settings: &Settings,
    kafka: &KafkaSettings,
    metrics: prometheus::Registry,
) -> Result<Ingest> {
    refuse_strangers(settings.ingest_bind)?;
    let mut options = IngestOptions::new(settings.ingest_bind, kafka.clone(), PINS_TOPIC);
    options.registry = metrics;
    limit(&mut options, settings.ingest_limits);
    Ok(Ingest::bind(options).await?)
}

fn limit(options: &mut IngestOptions, limits: IngestLimits) {
    let IngestLimits {
        pin_bytes,
        batch_bytes,
        batch_pins,
        queue_bytes,
        posts,
        batches,
        ..
    } = limits;
    for (option, limit) in [
        (&mut options.body_limit, pin_bytes),
        (&mut options.batch_limit, batch_bytes),
        (&mut options.batch_pins, batch_pins),
        (&mut options.queue_bytes, queue_bytes),
        (&mut options.concurrency, posts),
        (&mut options.batch_concurrency, batches),
    ] {
        if let Some(limit) = limit {
            *option = limit.get();
        }
    }
}

/// Anybody on the network could post, and nothing authenticates them yet.
fn refuse_strangers(ingest_bind: SocketAddr) -> Result<()> {
    if ingest_bind.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(Failure::invalid(format!(
        "`ingest.bind` is `{ingest_bind}`, which other machines can reach, and there is no authentication yet to keep them out"
    ))
    .hint("bind a loopback address such as 127.0.0.1:8000 and put a proxy that authenticates before it"))
}

/// Sees whether the ingest API could have its port, before there is a broker to start it with.
pub(crate) async fn check_ingest_port(settings: &Settings) -> Result<()> {
    let address = settings.ingest_bind;
    refuse_strangers(address)?;
    match TcpListener::bind(address).await {
        Ok(_free) => Ok(()),
        Err(source) => Err(ingest::Error::Bind { address, source }.into()),
    }
}

/// The workers of every stream file, each with its stream's name.
pub(crate) fn stream_workers(
    settings: &Settings,
    kafka: &KafkaSettings,
    database_url: &str,
    registry: &prometheus::Registry,
) -> Result<Vec<(String, Worker)>> {
    let datasets = registry::datasets(&settings.dags_folder)?;
    let metrics = pinwheel_streaming::metrics::Worker::register(registry);
    let mut workers = Vec::new();
    for stream in streams(settings)? {
        let dataset = datasets.get(&stream.dataset).ok_or_else(|| {
            Failure::invalid(format!(
                "stream `{}` names the unknown dataset `{}`",
                stream.id, stream.dataset
            ))
            .hint(format!(
                "its file belongs into `{}`",
                settings.dags_folder.join("datasets").display()
            ))
        })?;
        for number in 1..=stream.workers {
            let numbered = |name: String| match stream.workers {
                1 => name,
                _ => format!("{name}-{number}"),
            };
            let mut options = WorkerOptions::new(
                kafka.clone(),
                database_url,
                stream.clone(),
                Arc::clone(&dataset),
            );
            options.metrics = metrics.clone();
            options.name = numbered(settings.worker.name.clone().unwrap_or_else(process_name));
            options.instance = settings.worker.name.clone().map(numbered);
            workers.push((stream.id.clone(), Worker::new(options)?));
        }
    }
    Ok(workers)
}

/// The stream files of the DAG folder.
pub(crate) fn streams(settings: &Settings) -> Result<Vec<StreamDefinition>> {
    StreamDefinition::load_folder(&settings.dags_folder.join("streams"))
        .map_err(|error| Failure::invalid(error.to_string()))
}

/// Brings the live view's schema to this version.
pub(crate) async fn migrate_live(database_url: &str) -> Result<()> {
    let pool = live::connect(database_url)?;
    live::migrate(&pool).await?;
    pool.close().await;
    Ok(())
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        match error {
            engine::Error::Store(error) => error.into(),
            engine::Error::DagFolder { .. } => Self::invalid(error.to_string())
                .hint("name the folder with --dags, PINWHEEL_DAGS_FOLDER or `dags.folder`"),
        }
    }
}

impl From<pinwheel_web::Error> for Failure {
    fn from(error: pinwheel_web::Error) -> Self {
        let message = error.to_string();
        match error {
            pinwheel_web::Error::NotLoopback { .. } => Self::invalid(message),
            pinwheel_web::Error::Bind { setting, .. } => Self::invalid(message).hint(format!(
                "stop what uses it, or choose another with --{} (port 0 takes a free one)",
                setting.replace('.', "-")
            )),
            pinwheel_web::Error::Serve(_) => Self::failed(message),
        }
    }
}

impl From<ingest::Error> for Failure {
    fn from(error: ingest::Error) -> Self {
        let message = error.to_string();
        match error {
            ingest::Error::Bind { .. } => Self::invalid(message).hint(
                "stop what uses it, or choose another with --ingest-bind (port 0 takes a free one)",
            ),
            ingest::Error::Kafka(_) => Self::invalid(message),
            ingest::Error::Serve(_) => Self::failed(message),
        }
    }
}

impl From<worker::Error> for Failure {
    fn from(error: worker::Error) -> Self {
        Self::failed(error.to_string())
    }
}

/// Only the live view hands out bare database errors.
impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        pinwheel_scheduler::store::Error::from(error).into()
    }
}
