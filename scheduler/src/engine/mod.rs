//! The loops: schedule, claim, run, settle, lease, reap, retain. The finisher promotes, so a chain needs no scheduler and no
//! notification; the bell only wakes; one timer waits for the next deadline; an idle engine asks nothing but its
//! heartbeat.

pub mod bell;
pub mod clock;
pub mod courier;
pub mod dag_folder;
mod execute;
pub(crate) mod flow;
mod heartbeat;
mod load;
mod lookups;
mod loops;
mod orchestrate;
mod outage;
mod recorder;
mod retain;
mod schedule;
mod worker;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use pinwheel_tasks::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use bell::{Bell, Changes};
pub use clock::{Clock, ShiftedClock, SystemClock};
pub use courier::{Courier, Delivery};

use crate::{
    secrets::{Sources, Vault},
    store::{self, Retention, Store},
};
use courier::Dispatch;
use dag_folder::DagFolder;
use execute::Executor;
pub(crate) use execute::presentable;
use heartbeat::{Keeper, Lease, Running};
use load::Meter;
use loops::{Loops, OnPanic};
use orchestrate::Runs;
use outage::Outage;
use recorder::Recorder;
use retain::Retainer;
use schedule::Scheduler;
use worker::{Stopping, Worker};

/// Which parts of the engine a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roles {
    /// Schedules, wakes, reaps; reads the DAG folder.
    Scheduler,
    /// Runs tasks.
    Worker,
    /// Both.
    Both,
}

impl Roles {
    fn schedules(self) -> bool {
        match self {
            Self::Scheduler | Self::Both => true,
            Self::Worker => false,
        }
    }

    fn works(self) -> bool {
        match self {
            Self::Worker | Self::Both => true,
            Self::Scheduler => false,
        }
    }
}

/// How an engine runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names the process to people, such as host and process id.
    pub name: String,
    /// The queues a worker serves.
    pub queues: Vec<String>,
    /// What people are told about the process beside its name.
    pub labels: BTreeMap<String, String>,
    /// How many tasks a worker runs at once.
    pub slots: usize,
    /// The folder of DAG files a scheduler watches.
    pub dag_folder: Option<PathBuf>,
    /// How long a worker's tasks stay its own without a heartbeat.
    pub lease: Duration,
    /// How often a process renews its lease.
    pub heartbeat: Duration,
    /// How long running tasks may go on after a graceful stop began.
    pub grace: Duration,
    /// How often the DAG folder is looked at.
    pub dag_poll: Duration,
    /// Who hears until when tasks may run here.
    pub on_lease: OnLease,
    /// Who delivers messages to people.
    pub delivery: Delivery,
    /// What a scheduler keeps of what is over.
    pub retention: Retention,
    /// How often it removes the rest.
    pub retain_every: Duration,
    /// How tasks here come by variables and connections.
    pub secrets: Sources,
}

/// Is told until when this process's tasks may run: at the start, after every renewal, and under a new lease. For
/// whoever has to end them when this process is stopped itself.
#[derive(Clone)]
pub struct OnLease(Arc<dyn Fn(Instant) + Send + Sync>);

impl OnLease {
    /// Calls `hear`, which must not block.
    pub fn new(hear: impl Fn(Instant) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    fn tell(&self, until: Instant) {
        (self.0)(until);
    }
}

/// Nobody.
impl Default for OnLease {
    fn default() -> Self {
        Self::new(|_| ())
    }
}

impl fmt::Debug for OnLease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OnLease")
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: format!("pinwheel-{}", std::process::id()),
            queues: vec!["default".to_owned()],
            labels: BTreeMap::new(),
            slots: 16,
            dag_folder: None,
            lease: Duration::from_secs(30),
            heartbeat: Duration::from_secs(5),
            grace: Duration::from_secs(30),
            dag_poll: Duration::from_secs(2),
            on_lease: OnLease::default(),
            delivery: Delivery::default(),
            retention: Retention::default(),
            retain_every: Duration::from_secs(60 * 60),
            secrets: Sources::default(),
        }
    }
}

/// Why an engine could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refused or is away.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The DAG folder cannot be read.
    #[error("the DAG folder `{}` cannot be read: {source}", path.display())]
    DagFolder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What loading the DAG folder found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Files that are good.
    pub good: usize,
    /// Files with errors; the last good versions of their DAGs go on.
    pub bad: usize,
    /// DAGs that got a new version.
    pub new_versions: usize,
}

/// A running engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    bell: Bell,
    options: Options,
    lease: watch::Receiver<Lease>,
    running: Running,
    folder: Option<Arc<DagFolder>>,
    stopping: Stopping,
    /// Ends every loop but the worker's, which ends by `stopping`.
    stop: CancellationToken,
    worker: Loops,
    others: Loops,
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Engine")
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens a lease, reads the DAG folder and starts the loops of `roles`.
    ///
    /// # Errors
    /// Postgres cannot be reached, or the DAG folder cannot be read.
    pub async fn start(
        store: Store,
        registry: Registry,
        roles: Roles,
        options: Options,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let bell = Bell::new();
        let outage = Outage::of(&store);
        let folder = options
            .dag_folder
            .clone()
            .filter(|_| roles.schedules())
            .map(|path| {
                Arc::new(DagFolder::new(
                    path,
                    registry.clone(),
                    store.clone(),
                    bell.clone(),
                    outage.clone(),
                    Arc::clone(&clock),
                ))
            });
        if roles.schedules() {
            let shift = *clock.shift().borrow();
            store.begin_watch(options.lease, shift).await?;
        }
        if let Some(folder) = &folder {
            folder.reload().await?;
        }
        let (lease_sender, lease) = watch::channel(heartbeat::open(&store, &options, roles).await?);
        let running = Running::default();
        let (taken_away_sender, taken_away) = mpsc::unbounded_channel();
        let (next_lease_end_sender, next_lease_end) = watch::channel(None);
        let stopping = Stopping::default();
        let keeper = Arc::new(Keeper {
            store: store.clone(),
            bell: bell.clone(),
            outage: outage.clone(),
            options: options.clone(),
            roles,
            clock: Arc::clone(&clock),
            running: running.clone(),
            lease: lease_sender,
            next_lease_end: next_lease_end_sender,
            taken_away: taken_away_sender,
            stopping: stopping.clone(),
            meter: Meter::default(),
        });
        let inner = Inner {
            store,
            bell,
            options,
            lease,
            running: running.clone(),
            folder,
            stopping,
            stop: CancellationToken::new(),
            worker: Loops::default(),
            others: Loops::default(),
        };
        let engine = Self {
            inner: Arc::new(inner),
        };
        let shift = clock.shift();
        engine.spawn_shared(keeper, &outage);
        if roles.schedules() {
            engine.spawn_scheduler(&outage, clock, next_lease_end);
        }
        if roles.works() {
            engine.spawn_worker(registry, &outage, shift, running, taken_away);
        }
        Ok(engine)
    }

    /// The engine's bell, for whoever changes something through the store in the same process.
    pub fn bell(&self) -> Bell {
        self.inner.bell.clone()
    }

    /// Hears that something changed somewhere.
    pub fn changes(&self) -> Changes {
        self.inner.bell.changes()
    }

    /// Reads the DAG folder now and publishes what it says.
    ///
    /// # Errors
    /// The folder cannot be read, or Postgres is away; the folder is looked at again soon.
    pub async fn reload_dags(&self) -> Result<Reloaded, Error> {
        match &self.inner.folder {
            Some(folder) => folder.reload().await,
            None => Ok(Reloaded::default()),
        }
    }

    /// Waits until the engine cannot go on: a loop broke that it cannot do without. The process should stop then.
    pub async fn broken(&self) {
        self.inner.worker.broken.cancelled().await;
    }

    /// Stops in good order: claims nothing more, lets running tasks end within the grace, hands the rest back without
    /// spending a try, and ends its lease. Every clone of the engine is stopped.
    pub async fn stop(self) {
        let inner = &self.inner;
        inner.stopping.begins.cancel();
        let grace = async {
            tokio::time::sleep(inner.options.grace).await;
            inner.stopping.grace_is_over.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = inner.worker.join() => {}
            () = grace => {}
        }
        inner.stop.cancel();
        inner.others.join().await;
        let lease = *inner.lease.borrow();
        if let Err(error) = inner.store.resign(lease.worker_id).await {
            tracing::warn!(%error, "the lease could not be ended; it ends by itself");
        }
    }

    /// Ends the grace of a stop that has begun: what still runs is stopped within a second and handed back.
    pub fn stop_now(&self) {
        self.inner.stopping.begins.cancel();
        self.inner.stopping.grace_is_over.cancel();
        self.inner.stopping.at_once.cancel();
    }

    /// How many tasks run here.
    pub fn running_tasks(&self) -> usize {
        self.inner.running.count()
    }

    fn spawn_shared(&self, keeper: Arc<Keeper>, outage: &Outage) {
        let inner = &self.inner;
        let stop = inner.stop.clone();
        inner.others.spawn("heartbeat", OnPanic::Restart, move || {
            let (keeper, stop) = (Arc::clone(&keeper), stop.clone());
            async move { keeper.keep(stop).await }
        });
        let (bell, store, stop) = (inner.bell.clone(), inner.store.clone(), inner.stop.clone());
        inner.others.spawn("listen", OnPanic::Restart, move || {
            let (bell, store, stop) = (bell.clone(), store.clone(), stop.clone());
            async move { bell.hear_others(store, stop).await }
        });
        let (bell, store, stop) = (inner.bell.clone(), inner.store.clone(), inner.stop.clone());
        let outage = outage.clone();
        inner.others.spawn("notify", OnPanic::Restart, move || {
            let (bell, store, stop, outage) =
                (bell.clone(), store.clone(), stop.clone(), outage.clone());
            async move { bell.notify_others(store, outage, stop).await }
        });
    }

    fn spawn_scheduler(
        &self,
        outage: &Outage,
        clock: Arc<dyn Clock>,
        next_lease_end: watch::Receiver<Option<tokio::time::Instant>>,
    ) {
        let inner = &self.inner;
        let dispatch = Arc::new(Dispatch::new(
            inner.options.delivery.clone(),
            inner.store.clone(),
            inner.bell.clone(),
            Arc::clone(&clock),
        ));
        let scheduler = Arc::new(Scheduler {
            dispatch,
            store: inner.store.clone(),
            bell: inner.bell.clone(),
            outage: outage.clone(),
            clock: Arc::clone(&clock),
            next_lease_end,
        });
        let stop = inner.stop.clone();
        inner.others.spawn("schedule", OnPanic::Restart, move || {
            let (scheduler, stop) = (Arc::clone(&scheduler), stop.clone());
            async move { scheduler.run(stop).await }
        });
        let retainer = Arc::new(Retainer {
            store: inner.store.clone(),
            bell: inner.bell.clone(),
            outage: outage.clone(),
            clock,
            retention: inner.options.retention,
            period: inner.options.retain_every,
        });
        let stop = inner.stop.clone();
        inner.others.spawn("retain", OnPanic::Restart, move || {
            let (retainer, stop) = (Arc::clone(&retainer), stop.clone());
            async move { retainer.run(stop).await }
        });
        if let Some(folder) = inner.folder.clone() {
            let (period, stop) = (inner.options.dag_poll, inner.stop.clone());
            inner.others.spawn("DAG folder", OnPanic::Restart, move || {
                let (folder, stop) = (Arc::clone(&folder), stop.clone());
                async move { folder.watch(period, stop).await }
            });
        }
    }

    fn spawn_worker(
        &self,
        registry: Registry,
        outage: &Outage,
        shift: watch::Receiver<TimeDelta>,
        running: Running,
        taken_away: mpsc::UnboundedReceiver<(crate::model::InstanceId, i32)>,
    ) {
        let inner = &self.inner;
        let recorder = Recorder::default();
        let worker = Worker {
            store: inner.store.clone(),
            bell: inner.bell.clone(),
            outage: outage.clone(),
            options: inner.options.clone(),
            executor: Executor {
                store: inner.store.clone(),
                vault: Vault::new(inner.store.clone(), inner.options.secrets.clone()),
                registry,
                recorder: recorder.clone(),
                outage: outage.clone(),
                runs: Runs::new(
                    inner.store.clone(),
                    inner.bell.clone(),
                    outage.clone(),
                    shift,
                ),
                stop_at_once: inner.stopping.at_once.clone(),
            },
            lease: inner.lease.clone(),
            running,
            taken_away,
            stopping: inner.stopping.clone(),
        };
        // It cannot start again: what it ran is gone with it.
        let worker = Mutex::new(Some(worker));
        inner.worker.spawn("work", OnPanic::StopEngine, move || {
            let worker = worker.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                if let Some(worker) = worker {
                    worker.work().await;
                }
            }
        });
        let (store, outage, stop) = (inner.store.clone(), outage.clone(), inner.stop.clone());
        inner.others.spawn("record", OnPanic::Restart, move || {
            let (recorder, store, outage, stop) = (
                recorder.clone(),
                store.clone(),
                outage.clone(),
                stop.clone(),
            );
            async move { recorder.write(store, outage, stop).await }
        });
    }
}
