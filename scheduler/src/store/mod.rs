//! Every SQL statement of the orchestrator, and nothing else. One lowercase file per statement under `queries/`.
//!
//! Locks are taken in one order everywhere: runs by id, then DAG rows by id, then task instances, then pools by name.
//! Whoever holds no run lock takes `ready`, `sleeper`, task instances and queued runs with SKIP LOCKED, so that nobody
//! waits in a circle. No transaction is open while a task runs, and none rings the bell.

mod alerts;
mod asked;
mod backfills;
mod check;
mod claim;
mod datasets;
mod durable;
mod error;
mod figures;
mod gates;
mod lease;
mod log;
mod mark;
mod notes;
mod people;
mod pools;
mod previous;
mod publish;
mod read;
mod repair;
mod retain;
mod rows;
mod runs;
mod secrets;
mod settle;
mod text;
mod time_limits;
mod trust;
mod why;
mod workers;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{
    PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub(crate) use alerts::DELIVERY_LEASE;
pub use alerts::{
    ChannelInfo, ChannelRow, DeadlineRow, DeliveryFailed, Due, HealthRow, MessageFilter,
    MessageRow, MessageState,
};
pub use backfills::{
    BackfillDateRow, BackfillFilter, BackfillRow, NewBackfill, OpenRuns, PlannedDate, Progress,
    Steer,
};
pub use check::{Checked, Finding, FindingKind};
pub use claim::{Appetite, Claimed, Execution, Taken};
pub use durable::Fenced;
pub use error::Error;
pub use figures::{Figures, HotShare};
pub use lease::{Course, Heartbeat, Renewed, Report};
pub use log::LogLine;
pub use mark::{MarkRequest, MarkSelection, Marked, MarkedAs};
pub use notes::{NoteRow, NoteText};
pub use publish::{Published, PublishedFile, ToPublish, content_hash};
pub use repair::Repaired;
pub use retain::{Keep, Pass, Prune, Removed, Retention};
pub use rows::*;
pub use secrets::Kept;
pub(crate) use secrets::{Sealed, SealedConnection, SealedVariable};
pub use settle::{Ended, Ending, Item, Settled, Span};
pub use why::{Because, Holder, Place, Why};

use crate::model::{Dag, VersionId};
use trust::Trust;

/// The orchestrator's state in Postgres. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    /// For what every task goes through, settling and claiming: as few connections as can be busy at once, so that
    /// each keeps its plans and its place in the processor's caches.
    hot: PgPool,
    /// For the engine's other statements: short, prepared, never left waiting by people's queries.
    engine: PgPool,
    /// For what people look at, under a statement time-out.
    people: PgPool,
    options: Arc<PgConnectOptions>,
    trust: Trust,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Versions are immutable, so a definition is read once per process.
    definitions: Mutex<HashMap<VersionId, Arc<Dag>>>,
    /// Whether any pool has a limit, as last seen. Only decides whether a claim looks at limited pools at all; that no
    /// limit is exceeded is decided inside the claim.
    limited_pools: AtomicBool,
    /// Whether anything stands behind a gate, as last seen. The same holds for it.
    gates: AtomicBool,
}

/// What a claim need not look at while it is not there.
#[derive(Debug, Clone, Copy)]
enum Seen {
    LimitedPools,
    Gates,
}

/// Whether a DAG runs by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paused {
    /// It gets no scheduled run, and its queued runs do not start.
    Paused,
    /// It runs.
    Active,
}

/// What a transaction left for others to do, told to the bell after the commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effects {
    /// Something became claimable that the caller did not claim.
    pub work: bool,
    /// Something sleeps now that a scheduler must wake.
    pub deadline: bool,
    /// A running task was taken away from its worker.
    pub cancelled: bool,
}

impl Effects {
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            work: self.work || other.work,
            deadline: self.deadline || other.deadline,
            cancelled: self.cancelled || other.cancelled,
        }
    }
}

/// As many transactions as a worker has on their way at once.
const HOT_CONNECTIONS: u32 = 2;
const ENGINE_CONNECTIONS: u32 = 8;
const PEOPLE_CONNECTIONS: u32 = 6;

impl Store {
    /// Opens the connection pools. Postgres must answer.
    ///
    /// # Errors
    /// The URL is no Postgres URL, or Postgres cannot be reached.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let options: PgConnectOptions = url.parse()?;
        let store = Self::with_options(options);
        store.ping().await?;
        Ok(store)
    }

    /// A store on the database of an existing pool, with connections of its own.
    pub fn from_pool(pool: &PgPool) -> Self {
        Self::with_options((*pool.connect_options()).clone())
    }

    fn with_options(options: PgConnectOptions) -> Self {
        let options = options
            .application_name("pinwheel")
            .statement_cache_capacity(256);
        // Every hot statement finds its rows by key. A plan made while the tables were small would go on reading them
        // whole for as long as the prepared statement lives, so the alternatives are switched off, and a plan costs what
        // rows it touches: pages are in memory.
        let engine_options = options.clone().options([
            // A process that is stopped in the middle of a transaction holds locks that everybody waits for: for less than
            // `lock_timeout`, so that nobody has to give up.
            ("idle_in_transaction_session_timeout", "5s"),
            ("lock_timeout", "20s"),
            ("statement_timeout", "60s"),
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("enable_material", "off"),
            ("random_page_cost", "0.01"),
            ("cpu_tuple_cost", "1"),
            ("cpu_index_tuple_cost", "0.5"),
            ("jit", "off"),
            ("plan_cache_mode", "force_generic_plan"),
        ]);
        let people_options = options.clone().options([
            ("idle_in_transaction_session_timeout", "5s"),
            ("statement_timeout", "15s"),
            ("jit", "off"),
        ]);
        let trust = Trust::default();
        let pool = |connections| {
            trust
                .guard(PgPoolOptions::new())
                .max_connections(connections)
                .acquire_timeout(Duration::from_secs(10))
                // A ping before every statement would double the round trips; a broken connection is found by using it.
                .test_before_acquire(false)
        };
        let hot = pool(HOT_CONNECTIONS).connect_lazy_with(engine_options.clone());
        let engine = pool(ENGINE_CONNECTIONS).connect_lazy_with(engine_options);
        let people = PgPoolOptions::new()
            .max_connections(PEOPLE_CONNECTIONS)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(people_options);
        Self {
            hot,
            engine,
            people,
            options: Arc::new(options),
            trust,
            shared: Arc::default(),
        }
    }

    /// Brings the database to this version's schema.
    ///
    /// # Errors
    /// A migration failed, or was changed after it had been applied.
    pub async fn migrate(&self) -> Result<(), Error> {
        sqlx::migrate!("../migrations/scheduler")
            .run(&self.people)
            .await?;
        Ok(())
    }

    /// Asks Postgres whether it is there.
    ///
    /// # Errors
    /// It is not.
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query_file_scalar!("src/store/queries/ping.sql")
            .fetch_one(&self.people)
            .await?;
        Ok(())
    }

    /// Forgets the engine's connections that are open now: one of them was found broken, so the others are.
    pub(crate) fn distrust_open_connections(&self) {
        self.trust.begin_anew();
    }

    /// How to open one more connection to the same database, for LISTEN.
    pub(crate) fn connect_options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// Rings the bell of other processes, outside of any transaction.
    pub(crate) async fn notify(&self, payload: &str) -> Result<(), Error> {
        sqlx::query_file_scalar!("src/store/queries/notify.sql", payload)
            .fetch_one(&self.engine)
            .await?;
        Ok(())
    }

    /// The definition of a version; read once per process.
    ///
    /// # Errors
    /// The version does not exist, or Postgres cannot be reached.
    pub async fn definition(&self, version: VersionId) -> Result<Arc<Dag>, Error> {
        if let Some(dag) = self.known_definition(version) {
            return Ok(dag);
        }
        let mut connection = self.engine.acquire().await?;
        self.definition_by(&mut connection, version).await
    }

    fn known_definition(&self, version: VersionId) -> Option<Arc<Dag>> {
        self.shared
            .definitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&version)
            .cloned()
    }

    /// The definition of a version, by a connection that is at hand.
    async fn definition_by(
        &self,
        connection: &mut PgConnection,
        version: VersionId,
    ) -> Result<Arc<Dag>, Error> {
        if let Some(dag) = self.known_definition(version) {
            return Ok(dag);
        }
        let definition =
            sqlx::query_file_scalar!("src/store/queries/read_definition.sql", version.0)
                .fetch_optional(connection)
                .await?
                .ok_or(Error::UnknownVersion {
                    version_id: version,
                })?;
        let dag: Arc<Dag> =
            serde_json::from_value(definition).map_err(|source| Error::Definition {
                version_id: version,
                source,
            })?;
        self.remember(version, &dag);
        Ok(dag)
    }

    /// Reads the definitions of versions that this process does not know yet, all at once.
    async fn know_definitions(
        &self,
        connection: &mut PgConnection,
        versions: &BTreeSet<VersionId>,
    ) -> Result<(), Error> {
        let unknown: Vec<i64> = {
            let known = self
                .shared
                .definitions
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            versions
                .iter()
                .filter(|version| !known.contains_key(version))
                .map(|version| version.0)
                .collect()
        };
        if unknown.is_empty() {
            return Ok(());
        }
        let rows = sqlx::query_file!("src/store/queries/read_definitions.sql", &unknown)
            .fetch_all(connection)
            .await?;
        for row in rows {
            let dag =
                serde_json::from_value(row.definition).map_err(|source| Error::Definition {
                    version_id: row.version_id,
                    source,
                })?;
            self.remember(row.version_id, &Arc::new(dag));
        }
        Ok(())
    }

    fn remember(&self, version: VersionId, dag: &Arc<Dag>) {
        self.shared
            .definitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(version, Arc::clone(dag));
    }

    fn seen(&self, what: Seen) -> bool {
        self.flag(what).load(Ordering::Relaxed)
    }

    fn note(&self, what: Seen, is_there: bool) {
        self.flag(what).store(is_there, Ordering::Relaxed);
    }

    fn flag(&self, what: Seen) -> &AtomicBool {
        match what {
            Seen::LimitedPools => &self.shared.limited_pools,
            Seen::Gates => &self.shared.gates,
        }
    }
}
