//! The worker's side of Postgres: the truth for offsets, and the one transaction per batch.
//!
//! Every statement of the worker is here or in `plan`. A transaction begins with the guarded move of the offsets; what
//! follows is only written when this worker still owns every partition of the batch at the expected offset.

use std::{
    collections::{BTreeMap, VecDeque},
    str::FromStr,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres, Row as _,
    migrate::MigrateError,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
    query::Query,
};

use super::{
    fold::{Counts, DeadLetter, Folded, Recent},
    plan::{Plan, Window, WindowSpan},
    posts::{self, Table, Way},
    status::Status,
};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/streaming");

/// No statement of the worker takes this long; one that does is waited for elsewhere.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A partition that this worker took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) generation: i64,
    pub(super) next_offset: i64,
    pub(super) watermark_ms: Option<i64>,
}

/// Why a batch was not committed, as far as the worker knows.
#[derive(Debug)]
pub(super) enum NotCommitted {
    /// The guard hit fewer rows than the batch has partitions: somebody else moved them, or an earlier commit of this
    /// worker arrived although its answer was lost. Nothing was written.
    Guarded,
    /// Postgres failed; whether the commit arrived must be read again.
    Database(sqlx::Error),
}

impl From<sqlx::Error> for NotCommitted {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

pub(super) struct Sink {
    pub(super) pool: PgPool,
    pub(super) table: Table,
}

/// Opens a pool whose search path is the schema `live`. Connects when it is first used.
pub(super) fn pool(url: &str, connections: u32) -> Result<PgPool, sqlx::Error> {
    pool_with(url, connections, &[])
}

/// Opens a pool for a worker, whose statements all go by a key. A plan lives as long as its connection: one that was made while a
/// table was empty would read the whole table for ever, and compare each row with each key of a batch.
pub(super) fn worker_pool(url: &str, connections: u32) -> Result<PgPool, sqlx::Error> {
    pool_with(url, connections, &[("enable_seqscan", "off")])
}

fn pool_with(url: &str, connections: u32, more: &[(&str, &str)]) -> Result<PgPool, sqlx::Error> {
    let options = PgConnectOptions::from_str(url)?
        .application_name("pinwheel stream")
        .options([
            ("search_path", "live"),
            ("statement_timeout", "30s"),
            ("idle_in_transaction_session_timeout", "30s"),
        ])
        .options(more.iter().copied());
    Ok(PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(4))
        .connect_lazy_with(options))
}

impl Sink {
    pub(super) fn new(pool: PgPool) -> Self {
        Self {
            pool,
            table: Table::default(),
        }
    }

    /// Makes the schema, runs its migrations, makes the stream's table and says what its windows are. A window whose panes
    /// would no longer fit those that are kept is given back by its name, and nothing is changed.
    pub(super) async fn prepare(&self, plan: &Plan) -> Result<Option<String>, sqlx::Error> {
        migrate(&self.pool).await?;
        if let Some(posts) = &plan.posts {
            self.table.prepare(&self.pool, plan, posts).await?;
        }
        let kept: Vec<(String, i64)> = sqlx::query_as(include_str!("../queries/read_slides.sql"))
            .bind(&plan.definition.id)
            .fetch_all(&self.pool)
            .await?;
        let (mut names, mut lengths, mut slides, mut lasts) = (vec![], vec![], vec![], vec![]);
        for window in &plan.windows {
            let (length, slide, last) = match window.span {
                WindowSpan::Panes {
                    length_ms,
                    slide_ms,
                } => (Some(length_ms / 1000), Some(slide_ms / 1000), None),
                WindowSpan::Last(last) => (None, None, i32::try_from(last).ok()),
            };
            if kept
                .iter()
                .any(|(name, kept)| *name == window.name && slide != Some(*kept))
            {
                return Ok(Some(window.name.clone()));
            }
            names.push(window.name.clone());
            lengths.push(length);
            slides.push(slide);
            lasts.push(last);
        }
        sqlx::query(include_str!("../queries/set_windows.sql"))
            .bind(&plan.definition.id)
            .bind(names)
            .bind(lengths)
            .bind(slides)
            .bind(lasts)
            .execute(&self.pool)
            .await?;
        Ok(None)
    }

    /// Takes partitions, each with the first offset to read if the stream has never seen it.
    pub(super) async fn take(
        &self,
        plan: &Plan,
        owner: &str,
        found: &BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<i32, Held>, sqlx::Error> {
        let partitions: Vec<i32> = found.keys().copied().collect();
        let first: Vec<i64> = found.values().copied().collect();
        let rows = sqlx::query(include_str!("../queries/take_partitions.sql"))
            .bind(&plan.definition.id)
            .bind(&plan.definition.topic)
            .bind(owner)
            .bind(partitions)
            .bind(first)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(held).collect()
    }

    /// Reads where every partition of the stream stands now.
    pub(super) async fn offsets(&self, plan: &Plan) -> Result<BTreeMap<i32, Held>, sqlx::Error> {
        let rows = sqlx::query(include_str!("../queries/read_offsets.sql"))
            .bind(&plan.definition.id)
            .bind(&plan.definition.topic)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(held).collect()
    }

    /// Moves a partition behind offsets that are gone. Says whether this worker still owned it there.
    pub(super) async fn skip_gap(
        &self,
        plan: &Plan,
        partition: i32,
        held: Held,
        first: i64,
    ) -> Result<bool, sqlx::Error> {
        let moved = sqlx::query(include_str!("../queries/skip_gap.sql"))
            .bind(&plan.definition.id)
            .bind(&plan.definition.topic)
            .bind(partition)
            .bind(held.generation)
            .bind(held.next_offset)
            .bind(first)
            .execute(&self.pool)
            .await?;
        Ok(moved.rows_affected() == 1)
    }

    /// Commits one batch, all of it or nothing.
    pub(super) async fn commit(
        &self,
        plan: &Plan,
        held: &BTreeMap<i32, Held>,
        folded: Folded,
    ) -> Result<(), NotCommitted> {
        let mut connection = self.pool.acquire().await?;
        let written = self.write(&mut connection, plan, held, &folded);
        let written = tokio::time::timeout(COMMIT_TIMEOUT, written)
            .await
            .unwrap_or_else(|_| {
                let message = format!(
                    "no answer to a commit for {} seconds",
                    COMMIT_TIMEOUT.as_secs()
                );
                let error = std::io::Error::new(std::io::ErrorKind::TimedOut, message);
                Err(NotCommitted::Database(sqlx::Error::Io(error)))
            });
        if matches!(written, Err(NotCommitted::Database(_))) {
            // It may be in the middle of a `copy`; nobody else shall find it so.
            connection.close_on_drop();
        }
        written
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        plan: &Plan,
        held: &BTreeMap<i32, Held>,
        folded: &Folded,
    ) -> Result<(), NotCommitted> {
        match self
            .write_by(
                connection,
                plan,
                held,
                folded,
                self.table.way(&folded.posts),
            )
            .await
        {
            Err(NotCommitted::Database(error)) if posts::is_taken(&error) => {
                self.write_by(connection, plan, held, folded, Way::Upsert)
                    .await
            }
            written => written,
        }
    }

    async fn write_by(
        &self,
        connection: &mut PgConnection,
        plan: &Plan,
        held: &BTreeMap<i32, Held>,
        folded: &Folded,
        way: Way,
    ) -> Result<(), NotCommitted> {
        let mut transaction = connection.begin().await?;
        if !advance(&mut transaction, plan, held, folded).await? {
            transaction.rollback().await?;
            return Err(NotCommitted::Guarded);
        }
        if let (Some(posts), false) = (&plan.posts, folded.posts.is_empty()) {
            self.table
                .write(&mut transaction, plan, posts, &folded.posts, way)
                .await?;
        }
        if !folded.windows.is_empty() {
            add_windows(plan, &folded.windows)
                .execute(&mut *transaction)
                .await?;
        }
        for ((window, partition), last) in &folded.recent {
            add_recent(plan, *window, *partition, last)
                .execute(&mut *transaction)
                .await?;
        }
        if !folded.dead.is_empty() {
            add_dead_letters(plan, &folded.dead)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    pub(super) async fn write_status(
        &self,
        plan: &Plan,
        owner: &str,
        status: &Status,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(include_str!("../queries/write_status.sql"))
            .bind(&plan.definition.id)
            .bind(owner)
            .bind(&plan.definition.topic)
            .bind(&plan.definition.dataset)
            .bind(&plan.definition.posts)
            .bind(status.state.word())
            .bind(status.problem.as_deref().map(without_nul))
            .bind(status.events_per_second)
            .bind(status.partitions_json())
            .bind(status.last_commit)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Forgets workers of the stream that have long said nothing.
    pub(super) async fn forget_workers(&self, plan: &Plan, owner: &str) -> Result<(), sqlx::Error> {
        sqlx::query(include_str!("../queries/forget_workers.sql"))
            .bind(&plan.definition.id)
            .bind(owner)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Remembers that partitions have nothing to read, where they still stand as the worker knows.
    pub(super) async fn mark_idle(
        &self,
        plan: &Plan,
        idle: &BTreeMap<i32, Held>,
    ) -> Result<(), sqlx::Error> {
        let (mut generations, mut offsets) = (Vec::new(), Vec::new());
        for held in idle.values() {
            generations.push(held.generation);
            offsets.push(held.next_offset);
        }
        sqlx::query(include_str!("../queries/mark_idle.sql"))
            .bind(&plan.definition.id)
            .bind(&plan.definition.topic)
            .bind(idle.keys().copied().collect::<Vec<i32>>())
            .bind(generations)
            .bind(offsets)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

/// Makes the schema `live` and its tables. Safe to run by several processes at once.
pub(crate) async fn migrate(pool: &PgPool) -> Result<(), sqlx::Error> {
    // Whoever may not create schemas can be given one.
    let exists: bool = sqlx::query_scalar("select to_regnamespace('live') is not null")
        .fetch_one(pool)
        .await?;
    if !exists {
        unless_made_by_another(
            sqlx::query("create schema if not exists live")
                .execute(pool)
                .await,
        )?;
    }
    MIGRATIONS.run(pool).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error,
        other => sqlx::Error::Migrate(Box::new(other)),
    })
}

/// `if not exists` is no protection against another process that does the same at the same time.
pub(super) fn unless_made_by_another<T>(made: Result<T, sqlx::Error>) -> Result<(), sqlx::Error> {
    match made {
        Err(sqlx::Error::Database(error))
            if matches!(error.code().as_deref(), Some("23505" | "42P06" | "42P07")) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Whether waiting may help: Postgres is away, starting, failing over, full of connections, or chose us as a victim.
pub(super) fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_)
        | sqlx::Error::Tls(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Connection exceptions, insufficient resources, operator intervention, system errors.
            ["08", "53", "57", "58"]
                .iter()
                .any(|class| code.starts_with(class))
                || matches!(
                    &*code,
                    "40001" | "40P01" | "55P03" | "25006" | "25P03" | "25P04"
                )
        }),
        _ => false,
    }
}

async fn advance(
    connection: &mut PgConnection,
    plan: &Plan,
    held: &BTreeMap<i32, Held>,
    folded: &Folded,
) -> Result<bool, sqlx::Error> {
    let advances = &folded.advances;
    let generations: Vec<i64> = advances
        .keys()
        .map(|partition| held.get(partition).map_or(0, |held| held.generation))
        .collect();
    let moved = sqlx::query(include_str!("../queries/advance_offsets.sql"))
        .bind(&plan.definition.id)
        .bind(&plan.definition.topic)
        .bind(advances.keys().copied().collect::<Vec<i32>>())
        .bind(generations)
        .bind(
            advances
                .values()
                .map(|advance| advance.from_offset)
                .collect::<Vec<i64>>(),
        )
        .bind(
            advances
                .values()
                .map(|advance| advance.next_offset)
                .collect::<Vec<i64>>(),
        )
        .bind(
            advances
                .values()
                .map(|advance| advance.watermark_ms.and_then(instant))
                .collect::<Vec<_>>(),
        )
        .bind(
            advances
                .values()
                .map(|advance| advance.events)
                .collect::<Vec<i64>>(),
        )
        .bind(
            advances
                .values()
                .map(|advance| advance.dead)
                .collect::<Vec<i64>>(),
        )
        .bind(
            advances
                .values()
                .map(|advance| advance.late)
                .collect::<Vec<i64>>(),
        )
        .bind(
            advances
                .values()
                .map(|advance| advance.dropped)
                .collect::<Vec<i64>>(),
        )
        .execute(connection)
        .await?;
    Ok(moved.rows_affected() == advances.len() as u64)
}

type Statement<'q> = Query<'q, Postgres, PgArguments>;

fn add_windows<'q>(
    plan: &'q Plan,
    windows: &'q BTreeMap<(usize, i64, String), Counts>,
) -> Statement<'q> {
    let (mut names, mut starts, mut ends, mut groups) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut events, mut dead, mut late) = (Vec::new(), Vec::new(), Vec::new());
    let (mut followed, mut sums, mut maxima) = (Vec::new(), Vec::new(), Vec::new());
    for ((position, start_ms, group), counts) in windows {
        let Window { name, span, .. } = &plan.windows[*position];
        let WindowSpan::Panes { slide_ms, .. } = span else {
            continue;
        };
        let start = instant(*start_ms).expect("times beyond the year 9999 were dropped");
        names.push(name.as_str());
        starts.push(start);
        ends.push(start + TimeDelta::milliseconds(*slide_ms));
        groups.push(group.as_str());
        events.push(counts.events);
        dead.push(counts.dead);
        late.push(counts.late);
        followed.push(counts.followed);
        sums.push(counts.sum.to_string());
        maxima.push(counts.max);
    }
    sqlx::query(include_str!("../queries/add_windows.sql"))
        .bind(&plan.definition.id)
        .bind(names)
        .bind(starts)
        .bind(ends)
        .bind(groups)
        .bind(events)
        .bind(dead)
        .bind(late)
        .bind(followed)
        .bind(sums)
        .bind(maxima)
}

fn add_recent<'q>(
    plan: &'q Plan,
    window: usize,
    partition: i32,
    last: &'q VecDeque<Recent>,
) -> Statement<'q> {
    let Window { name, span, .. } = &plan.windows[window];
    let most = match span {
        WindowSpan::Last(most) => i32::try_from(*most).unwrap_or(i32::MAX),
        WindowSpan::Panes { .. } => 0,
    };
    let (mut seen, mut groups) = (Vec::new(), Vec::new());
    for (seen_ms, group) in last {
        seen.push(seen_ms.and_then(instant));
        groups.push(group.as_str());
    }
    sqlx::query(include_str!("../queries/add_recent.sql"))
        .bind(&plan.definition.id)
        .bind(name)
        .bind(&plan.definition.topic)
        .bind(partition)
        .bind(seen)
        .bind(groups)
        .bind(most)
}

fn add_dead_letters<'q>(plan: &'q Plan, dead: &'q [DeadLetter]) -> Statement<'q> {
    let (mut partitions, mut offsets, mut times) = (Vec::new(), Vec::new(), Vec::new());
    let (mut stages, mut rules, mut fields, mut details) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut keys, mut raws) = (Vec::new(), Vec::new());
    for letter in dead {
        partitions.push(letter.partition);
        offsets.push(letter.offset);
        times.push(letter.timestamp_ms.and_then(instant));
        stages.push(letter.stage);
        rules.push(without_nul(&letter.rule));
        fields.push(letter.field.as_deref().map(without_nul));
        details.push(without_nul(&letter.detail));
        keys.push(letter.key.as_deref());
        raws.push(letter.raw.as_deref());
    }
    sqlx::query(include_str!("../queries/add_dead_letters.sql"))
        .bind(&plan.definition.id)
        .bind(&plan.definition.topic)
        .bind(partitions)
        .bind(offsets)
        .bind(times)
        .bind(stages)
        .bind(rules)
        .bind(fields)
        .bind(details)
        .bind(keys)
        .bind(raws)
}

fn held(row: &PgRow) -> Result<(i32, Held), sqlx::Error> {
    let watermark: Option<DateTime<Utc>> = row.try_get("watermark")?;
    Ok((
        row.try_get("partition")?,
        Held {
            generation: row.try_get("generation")?,
            next_offset: row.try_get("next_offset")?,
            watermark_ms: watermark.map(|watermark| watermark.timestamp_millis()),
        },
    ))
}

/// Postgres' text holds no NUL. Rows have none, the dataset sees to that; what is said of a rejected message may quote one.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn instant(milliseconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_from_what_stays() {
        assert!(is_passing(&sqlx::Error::PoolTimedOut));
        assert!(is_passing(&sqlx::Error::Io(std::io::Error::other("gone"))));
        assert!(!is_passing(&sqlx::Error::RowNotFound));
    }
}
