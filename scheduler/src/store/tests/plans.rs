//! History costs nothing: beside a million finished task instances every hot statement still finds its rows by key, and a
//! task costs what it cost before.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use chrono::TimeDelta;
use pinwheel_tasks::{Failure, LogStream};
use regex::Regex;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{
    calls::{LEASE, settle_and_claim},
    claim, cut_connections, ended, expire, number, register, sleep, sql,
};
use crate::{
    model::InstanceId,
    store::{Claimed, ClearRequest, ClearScope, ClearSelection, Ended, Ending, LogLine, Store},
    testing::{dag, fresh_store, publish, run_state, trigger},
};

/// Statements that may walk through tables, each with the reason. Whatever else lies in the folder is hot.
const NOT_HOT: &[(&str, &str)] = &[
    ("count_checked", "a check looks at everything"),
    ("count_old_rest", "retention says what it would remove"),
    ("count_ready", "a page counts what waits"),
    ("delete_old_lines", "retention, a small step now and then"),
    (
        "delete_old_messages",
        "retention, a small step now and then",
    ),
    (
        "delete_old_rendered",
        "retention, a small step now and then",
    ),
    ("delete_old_tries", "retention, a small step now and then"),
    (
        "delete_old_versions",
        "retention, a small step now and then",
    ),
    ("delete_stale_gates", "retention, a small step now and then"),
    ("list_channels", "a page shows all channels"),
    ("list_dags", "a page shows all DAGs"),
    ("list_dags_with_old_runs", "retention asks every DAG"),
    ("list_messages", "a page's filter may match nothing"),
    ("list_pools", "a page shows what all pools hold"),
    ("list_published", "a DAG file has changed"),
    ("list_runs", "a page's filter may match nothing"),
    (
        "list_unserved_queues",
        "a page shows what waits in all queues",
    ),
    ("look_at_counters", "a check looks at everything"),
    ("look_at_final_runs", "a check looks at everything"),
    ("look_at_parked", "a check looks at everything"),
    ("look_at_runs", "a check looks at everything"),
    ("look_at_sleepers", "a check looks at everything"),
    (
        "read_why_queued",
        "a person asks what is before a task in its queue",
    ),
    ("retire_missing_dags", "a DAG file has changed"),
];

/// One row for each process, pool or broken file: small whatever happened before.
const SMALL: &[&str] = &["worker", "pool", "watch", "dag_file_error"];
/// What history is made of. Nothing hot may even walk through an index of it.
const HISTORY: &[&str] = &[
    "run",
    "task_instance",
    "try",
    "output",
    "log_line",
    "rendered",
];
/// The one index of it that forgets: it holds open runs only.
const OPEN_RUNS: &str = "run_open_idx";

/// Finished task instances, and of how many runs.
const FINISHED: i64 = 1_000_000;
const RUNS: i64 = 100_000;

#[test]
fn what_is_not_hot_exists() {
    let known: Vec<String> = statements().into_iter().map(|(name, _)| name).collect();
    for (name, reason) in NOT_HOT {
        assert!(
            known.iter().any(|one| one == name),
            "`{name}` is gone: {reason}"
        );
    }
}

#[tokio::test]
async fn beside_a_million_finished_tasks_every_hot_statement_finds_its_rows_by_key_and_a_task_costs_the_same()
 {
    let (store, url) = fresh_store().await;
    freeze_statistics(&store).await;
    let alone = cost(&url).await;

    let store = Store::connect(&url).await.unwrap();
    fill(&store).await;
    let never_analysed = walks(&store).await;
    for table in tables(&store).await {
        sql(&store, format!("vacuum (analyze) {table}")).await;
    }
    let just_analysed = walks(&store).await;
    let walks: BTreeSet<(String, String)> = never_analysed
        .into_iter()
        .chain(just_analysed)
        .filter(|(name, _)| NOT_HOT.iter().all(|(cold, _)| cold != name))
        .collect();
    assert!(walks.is_empty(), "{walks:#?}");

    let beside = cost(&url).await;
    for table in HISTORY {
        let (then, now) = (alone[*table], beside[*table]);
        // An index of a million entries is two levels deeper than one of a few hundred, and how many dead entries a look
        // passes over depends on who was quicker. A walk through history would be thousands.
        assert!(
            now.rows <= then.rows * 3.0 + 10.0 && now.blocks <= then.blocks * 3.0 + 10.0,
            "{table} costs an execution {then:?} alone and {now:?} beside a million"
        );
    }
}

/// Every statement of the store, by the name of its file.
fn statements() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/queries");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(file).unwrap())
        })
        .collect()
}

/// Statements whose plan walks through a table or an index instead of looking rows up, and through which: planned by a
/// connection of the engine as it plans them.
async fn walks(store: &Store) -> Vec<(String, String)> {
    let tables_of_indexes: HashMap<String, String> = sqlx::query_as::<_, (String, String)>(
        "select indexname::text, tablename::text from pg_indexes where schemaname = 'public'",
    )
    .fetch_all(&store.people)
    .await
    .unwrap()
    .into_iter()
    .collect();
    let mut connection = store.engine.acquire().await.unwrap();
    let mut found = Vec::new();
    for (name, statement) in statements() {
        let Some(plan) = plan(&mut connection, &name, &statement).await else {
            continue;
        };
        let mut nodes = vec![&plan[0]["Plan"]];
        while let Some(node) = nodes.pop() {
            nodes.extend(node["Plans"].as_array().into_iter().flatten());
            let text = |key: &str| node[key].as_str();
            let index = text("Index Name");
            let table = text("Relation Name")
                .or_else(|| tables_of_indexes.get(index?).map(String::as_str))
                .unwrap_or_default();
            let kind = text("Node Type").unwrap();
            let walks = match kind {
                "Seq Scan" => !SMALL.contains(&table),
                "Index Scan" | "Index Only Scan" | "Bitmap Index Scan" => {
                    HISTORY.contains(&table)
                        && text("Index Cond").is_none()
                        && index != Some(OPEN_RUNS)
                }
                _lookup_or_no_table => false,
            };
            if walks {
                found.push((name.clone(), format!("{kind} of {table}")));
            }
        }
    }
    found
}

/// The generic plan of a statement: the one that a prepared statement of the engine lives with. A table lock has none, nor has a
/// setting of the transaction.
async fn plan(connection: &mut PgConnection, name: &str, statement: &str) -> Option<Value> {
    let has_plan = statement
        .lines()
        .find(|line| !line.starts_with("--"))
        .is_some_and(|line| {
            !line.starts_with("lock table") && !line.starts_with("set transaction")
        });
    if !has_plan {
        return None;
    }
    let parameters = Regex::new(r"\$(\d+)")
        .unwrap()
        .captures_iter(statement)
        .map(|found| found[1].parse().unwrap())
        .max()
        .unwrap_or(0);
    let mut run = async |text: String| {
        sqlx::query(AssertSqlSafe(text))
            .persistent(false)
            .fetch_all(&mut *connection)
            .await
            .unwrap_or_else(|error| panic!("`{name}`: {error}"))
    };
    run(format!("prepare hot as {statement}")).await;
    let arguments = match parameters {
        0 => String::new(),
        count => format!("({})", vec!["null"; count].join(", ")),
    };
    let rows = run(format!("explain (format json) execute hot{arguments}")).await;
    run("deallocate hot".to_owned()).await;
    Some(sqlx::Row::get(&rows[0], 0))
}

async fn tables(store: &Store) -> Vec<String> {
    sqlx::query_scalar(
        "select relname::text from pg_stat_user_tables where relname <> '_sqlx_migrations' order by relname",
    )
    .fetch_all(&store.people)
    .await
    .unwrap()
}

/// Nothing is analysed or vacuumed but by the test, so that both plans and costs repeat.
async fn freeze_statistics(store: &Store) {
    for table in tables(store).await {
        sql(
            store,
            format!("alter table {table} set (autovacuum_enabled = false)"),
        )
        .await;
    }
}

/// Makes a million finished task instances of a DAG with ten tasks, with their history and some of what they left.
async fn fill(store: &Store) {
    let names: Vec<String> = (0..FINISHED / RUNS)
        .map(|task| format!("t{task}"))
        .collect();
    let chain: Vec<(&str, Vec<&str>)> = names
        .iter()
        .enumerate()
        .map(|(ordinal, name)| {
            let above = ordinal.checked_sub(1).map(|above| names[above].as_str());
            (name.as_str(), above.into_iter().collect())
        })
        .collect();
    let chain: Vec<(&str, &[&str])> = chain
        .iter()
        .map(|(name, above)| (*name, above.as_slice()))
        .collect();
    publish(store, &dag("history", &chain)).await;
    // Keys are made once the rows are there: that takes half of the time.
    let script = format!(
        "begin;
        set local session_replication_role = replica;
        set local synchronous_commit = off;
        alter table task_instance drop constraint task_instance_key;
        alter table try drop constraint try_pkey;
        insert into run (dag_id, version_id, kind, state, logical_date, data_interval_start, data_interval_end,
            started_at, finished_at)
        select dag_id, current_version, 'manual', 'success', day, day, day, day, day
        from dag, generate_series(1, {RUNS}) n, lateral (select timestamptz '2020-01-01' + n * interval '1 minute') d (day)
        where dag_id = 'history';
        insert into task_instance (run_id, ordinal, epoch, tries, tries_allowed, pending, ok, state, queued_at, started_at,
            finished_at)
        select run_id, ordinal, 1, 1, 1, 0, least(ordinal, 1), 'success', started_at, started_at, finished_at
        from run, generate_series(0, {FINISHED} / {RUNS} - 1) ordinal where dag_id = 'history';
        create temporary table history on commit drop as
        select i.instance_id, i.ordinal, i.started_at, i.finished_at
        from run r join task_instance i on i.run_id = r.run_id where r.dag_id = 'history';
        insert into try (instance_id, epoch, try_number, worker_id, started_at, finished_at, outcome)
        select instance_id, 1, 1, 1, started_at, finished_at, 'success' from history;
        insert into output (instance_id, output)
        select instance_id, '{{\"rows\": 1}}' from history where ordinal = 0;
        insert into log_line (instance_id, epoch, line, try_number, at, stream, message)
        select instance_id, 1, 1, 1, started_at, 'task', 'done' from history where ordinal = 0;
        insert into rendered (instance_id, try_number, rendered)
        select instance_id, 1, '{{}}' from history where ordinal = 0;
        alter table task_instance add constraint task_instance_key unique (run_id, ordinal, map_index);
        alter table try add constraint try_pkey primary key (instance_id, epoch);
        commit;"
    );
    sql(store, script).await;
    let finished = "select count(*) from task_instance where state = 'success'";
    assert!(number(store, finished).await >= FINISHED);
}

/// What one execution touches of a table, on average.
#[derive(Debug, Clone, Copy, Default)]
struct Touched {
    /// Rows and index entries that were read.
    rows: f64,
    /// Blocks of the table and its indexes, whether in memory or not.
    blocks: f64,
}

/// What an execution costs in each table, by Postgres' own account, averaged over runs in which everything happens that the
/// engine does for tasks.
async fn cost(url: &str) -> BTreeMap<String, Touched> {
    let before = account(url).await;
    let executions = live(&Store::connect(url).await.unwrap()).await as f64;
    let after = account(url).await;
    after
        .into_iter()
        .map(|(table, now)| {
            let then = before[&table];
            let touched = Touched {
                rows: (now.rows - then.rows) / executions,
                blocks: (now.blocks - then.blocks) / executions,
            };
            (table, touched)
        })
        .collect()
}

/// What was touched so far. A connection adds its part when it ends at the latest, so all are ended first.
async fn account(url: &str) -> BTreeMap<String, Touched> {
    cut_connections(url).await;
    let mut connection = PgConnection::connect(url).await.unwrap();
    let others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    while sqlx::query_scalar::<_, i64>(others)
        .fetch_one(&mut connection)
        .await
        .unwrap()
        > 0
    {}
    let rows: Vec<(String, f64, f64)> = sqlx::query_as(
        "select s.relname::text,
            (coalesce(s.seq_tup_read, 0) + coalesce(s.idx_tup_fetch, 0) + coalesce((
                select sum(x.idx_tup_read) from pg_stat_user_indexes x where x.relid = s.relid), 0))::float8,
            (coalesce(b.heap_blks_read + b.heap_blks_hit, 0) + coalesce(b.idx_blks_read + b.idx_blks_hit, 0))::float8
         from pg_stat_user_tables s join pg_statio_user_tables b on b.relid = s.relid",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    rows.into_iter()
        .map(|(table, rows, blocks)| (table, Touched { rows, blocks }))
        .collect()
}

/// Lives through some runs: claims, results with outputs and logs, retries, sleeps, a lost worker, a cancelled run, a
/// cleared one, heartbeats. Returns how many executions there were.
async fn live(store: &Store) -> usize {
    let mut diamond = dag(
        "diamond",
        &[
            ("a", &[]),
            ("b", &["a"]),
            ("c", &["a"]),
            ("d", &["b", "c"]),
            ("e", &["d"]),
        ],
    );
    diamond.tasks[1].retries = 1;
    publish(store, &diamond).await;
    let mut runs = Vec::new();
    for _ in 0..40 {
        runs.push(trigger(store, &diamond).await);
    }
    store.cancel_run(runs[0], "ada").await.unwrap();

    let doomed = register(store, "doomed").await;
    assert_eq!(claim(store, doomed, 8).await.len(), 8);
    expire(store, doomed).await;
    assert!(store.reap().await.unwrap().effects.work);

    let worker = register(store, "one").await;
    let mut held = claim(store, worker, 8).await;
    let mut executions = 8;
    loop {
        let fences: Vec<(InstanceId, i32)> = held
            .iter()
            .map(|one| (one.execution.instance_id, one.execution.epoch))
            .collect();
        let renewed = store.renew(worker, LEASE, &fences).await.unwrap();
        assert!(renewed.unwrap().lost.is_empty());
        executions += held.len();
        let batch: Vec<Ended> = held.into_iter().map(end).collect();
        let (settled, claimed) = settle_and_claim(store, &batch, worker, &["default"], 8)
            .await
            .unwrap();
        assert!(settled.refused.is_empty());
        assert!(
            store.settle(&batch).await.unwrap().refused.is_empty(),
            "the same once more"
        );
        assert_eq!(store.held_by(worker).await.unwrap().len(), claimed.len());
        held = claimed;
        if held.is_empty() {
            let is_due = store.wake(TimeDelta::days(1)).await.unwrap().work;
            held = claim(store, worker, 8).await;
            if !is_due && held.is_empty() {
                break;
            }
        }
    }
    for run in &runs[1..4] {
        store
            .clear(ClearRequest {
                run_id: *run,
                selection: ClearSelection::WholeRun,
                scope: ClearScope::Only,
                version: crate::store::ClearVersion::Same,
                actor: "ada".to_owned(),
            })
            .await
            .unwrap();
        store.cancel_run(*run, "ada").await.unwrap();
    }
    for run in &runs[1..] {
        assert!(run_state(store, *run).await.is_final());
    }
    store.next_deadline(TimeDelta::zero()).await.unwrap();
    executions
}

/// The first try of `b` fails, `c` sleeps once, everything else succeeds; all of them leave something.
fn end(claimed: Claimed) -> Ended {
    let execution = &claimed.execution;
    let line = LogLine {
        instance_id: execution.instance_id,
        epoch: execution.epoch,
        line: 1,
        try_number: execution.tries,
        at: claimed.logical_date,
        stream: LogStream::Task,
        message: "done".to_owned(),
    };
    let ending = match (
        claimed.task().id.as_str(),
        execution.tries,
        execution.continues,
    ) {
        ("b", 1, _) => Ending::Failed(Failure::retryable("not yet")),
        ("c", _, false) => sleep(1),
        _ => Ending::Success {
            output: json!({ "rows": 1 }),
        },
    };
    Ended {
        lines: vec![line],
        rendered: Some(json!({})),
        ..ended(claimed, ending)
    }
}
