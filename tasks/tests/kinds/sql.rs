//! `sql` and `wait_for_sql` in a Postgres.

use std::fs;

use pinwheel_tasks::{FailureClass, Kind, Sql, WaitForSql};
use pinwheel_test_support::postgres::Postgres;
use serde_json::{Value, json};

use crate::world::{World, output, sleep, table};

async fn database() -> String {
    Postgres::shared().empty_database().await
}

async fn run(url: &str, statement: &str, params: Value) -> Value {
    let with = json!({"url": url, "statement": statement, "params": params});
    output(World::new().run(&Sql::in_folder("nowhere"), with).await)
}

#[tokio::test]
async fn values_are_bound_as_the_types_that_postgres_wants() {
    let url = database().await;
    let nasty = "'; drop table t; -- $1 \\ \" ü";
    let created = "create type mood as enum ('glad', 'sad');
        create table t (
            i int, b bigint, n numeric(12, 2), f float8, x text, c char(3), d date, at timestamptz, u uuid, y bool,
            j jsonb, a int[], ta text[], m mood, iv interval, raw bytea)";
    run(&url, created, json!({})).await;
    let inserted = run(
        &url,
        "insert into t values ($i, $b, $n, $f, $x, $c, $d, $at, $u, $y, $j, $a, $ta, $m, $iv, $raw)",
        json!({
            "i": 1, "b": 9_007_199_254_740_993_i64, "n": "1234567.89", "f": 0.5, "x": nasty, "c": "abc",
            "d": "2026-01-31", "at": "2026-01-31T02:00:00Z", "u": "8c7b5c0e-7a3e-4a0e-9d3b-0f1c2d3e4f50", "y": true,
            "j": {"k": ["v", null]}, "a": [1, null, 3], "ta": [nasty, "", "NULL", null], "m": "glad",
            "iv": "1 day 02:00:00", "raw": "\\x00ff",
        }),
    )
    .await;
    assert_eq!(
        inserted,
        json!({"rows": [], "is_cut": false, "affected": 1})
    );
    let found = run(
        &url,
        "set local time zone 'UTC'; select *, null as nothing from t where x = $1 and d = $2 and i in ($3, $3)",
        json!([nasty, "2026-01-31", 1]),
    )
    .await;
    assert_eq!(
        found["rows"],
        json!([{
            "i": 1, "b": 9_007_199_254_740_993_i64, "n": 1_234_567.89, "f": 0.5, "x": nasty, "c": "abc",
            "d": "2026-01-31", "at": "2026-01-31T02:00:00+00:00", "u": "8c7b5c0e-7a3e-4a0e-9d3b-0f1c2d3e4f50", "y": true,
            "j": {"k": ["v", null]}, "a": [1, null, 3], "ta": [nasty, "", "NULL", null], "m": "glad",
            "iv": "1 day 02:00:00", "raw": "\\x00ff", "nothing": null,
        }])
    );
}

#[tokio::test]
async fn statements_are_one_transaction_and_the_last_one_answers() {
    let url = database().await;
    run(&url, "create table t (n int unique)", json!({})).await;
    let kind = Sql::in_folder("nowhere");
    let with = json!({
        "url": url,
        "statements": [
            "insert into t select generate_series(1, $last); -- a comment; not a statement",
            "update t set n = n + 1000 where n > 3",
            "select n from t order by n -- the last line",
        ],
        "params": {"last": 5},
        "limit": 4,
    });
    let world = World::new();
    assert_eq!(
        output(world.run(&kind, with).await),
        json!({"rows": [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 1004}], "is_cut": true, "affected": 7})
    );
    assert_eq!(
        *world.said.lock().unwrap(),
        ["task: 4 answered rows, 7 changed"]
    );
    let with =
        json!({"url": url, "statements": ["delete from t", "insert into t values (7), (7)"]});
    let failure = World::new().run(&kind, with).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Retryable, "{failure:?}");
    assert!(
        failure.message.starts_with("statement 2: duplicate key"),
        "{failure:?}"
    );
    let left = run(&url, "select count(*) as n from t", json!({})).await;
    assert_eq!(left["rows"], json!([{"n": 5}]), "the delete was taken back");
    let changed = run(&url, "delete from t where n < 3 returning n", json!({})).await;
    assert_eq!(changed["rows"], json!([{"n": 1}, {"n": 2}]));
    let shown = run(&url, "show server_encoding", json!({})).await;
    assert_eq!(shown["rows"], json!([{"server_encoding": "UTF8"}]));
}

#[tokio::test]
async fn a_statement_runs_to_its_end_whoever_reads_how_many_rows() {
    let url = database().await;
    let count = |name: &str| format!("select last_value from {name}");
    run(
        &url,
        "create sequence first; create sequence last",
        json!({}),
    )
    .await;
    let world = World::new();
    let sql = Sql::in_folder("nowhere");
    let with = json!({
        "url": url, "limit": 3,
        "statement": "select nextval('first') from generate_series(1, 50); select nextval('last') as n from generate_series(1, 50)",
    });
    let answered = output(world.run(&sql, with).await);
    assert_eq!(
        answered,
        json!({"rows": [{"n": 1}, {"n": 2}, {"n": 3}], "is_cut": true, "affected": 0})
    );
    for name in ["first", "last"] {
        let found = run(&url, &count(name), json!({})).await;
        assert_eq!(found["rows"], json!([{"last_value": 50}]), "{name}");
    }
}

#[tokio::test]
async fn what_a_with_changes_is_answered_and_other_answers_are_text() {
    let url = database().await;
    run(
        &url,
        "create table a (n int); create table b (n int); insert into a values (1), (2), (3)",
        json!({}),
    )
    .await;
    let moved = run(
        &url,
        "with moved as (delete from a where n < $most returning *)
         insert into b select * from moved order by n returning n",
        json!({"most": 3}),
    )
    .await;
    assert_eq!(moved["rows"], json!([{"n": 1}, {"n": 2}]));
    let counted = run(
        &url,
        "with gone as (delete from b returning n) (select count(*) from gone) -- all of them",
        json!({}),
    )
    .await;
    assert_eq!(counted["rows"], json!([{"count": 2}]));
    let left = run(&url, "select n from a union all select n from b", json!({})).await;
    assert_eq!(left["rows"], json!([{"n": 3}]));
    let fetched = run(
        &url,
        "declare c cursor for select 5 as five, null::int as nothing; fetch 1 from c",
        json!({}),
    )
    .await;
    assert_eq!(fetched["rows"], json!([{"five": "5", "nothing": null}]));
}

#[tokio::test]
async fn a_file_of_the_dag_folder_is_run() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("load.sql"),
        "-- two of them\ncreate table f (n int);\ninsert into f values ($n);\ntable f;\n",
    )
    .unwrap();
    let with = json!({"url": database().await, "file": "load.sql", "params": {"n": 5}});
    let answer = World::new().run(&Sql::in_folder(folder.path()), with).await;
    assert_eq!(output(answer)["rows"], json!([{"n": 5}]));
}

#[tokio::test]
async fn a_failure_says_whether_trying_again_can_help_and_shows_no_password() {
    let url = database().await;
    let kind = Sql::in_folder("nowhere");
    let fail = async |url: &str, statement: &str, params: Value| {
        let with = json!({"url": url, "statement": statement, "params": params});
        World::new().run(&kind, with).await.unwrap_err()
    };
    let failure = fail(&url, "select 1 +", json!({})).await;
    assert_eq!(failure.class, FailureClass::Permanent, "{failure:?}");
    let failure = fail(&url, "select $day::date", json!({"day": "never"})).await;
    assert_eq!(failure.class, FailureClass::Permanent, "{failure:?}");
    let failure = fail(&url, "select $day::date", json!({"days": 1})).await;
    assert!(failure.message.contains("`day`"), "{failure:?}");
    let nobody = "postgres://user:hidden@127.0.0.1:9/db";
    let failure = fail(nobody, "select 1", json!({})).await;
    assert_eq!(failure.class, FailureClass::Retryable, "{failure:?}");
    assert!(!format!("{failure:?}").contains("hidden"));
    let failure = fail("postgres://user:hidden@host:port/db", "select 1", json!({})).await;
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(!format!("{failure:?}").contains("hidden"));
}

#[tokio::test]
async fn a_cancelled_statement_ends_on_the_server_too() {
    let url = database().await;
    run(&url, "create table gate (n int)", json!({})).await;
    let world = World::new();
    let waiting = {
        let (world, url) = (world.clone(), url.clone());
        tokio::spawn(async move {
            let with = json!({"url": url, "statement": "select pg_sleep(3600)"});
            world.run(&Sql::in_folder("nowhere"), with).await
        })
    };
    let running = "select count(*)::int as n from pg_stat_activity
        where datname = current_database() and state = 'active' and query like '%pg\\_sleep(3600)%'
            and pid <> pg_backend_pid()";
    let wait_for = async |wanted: i64| {
        while run(&url, running, json!({})).await["rows"][0]["n"] != wanted {}
    };
    wait_for(1).await;
    world.cancel.cancel();
    let failure = waiting.await.unwrap().unwrap_err();
    assert_eq!(failure.class, FailureClass::Cancelled);
    wait_for(0).await;
}

#[tokio::test]
async fn a_sensor_waits_for_something_true() {
    let url = database().await;
    run(&url, "create table t (n int)", json!({})).await;
    let world = World::new();
    let with = json!({
        "url": url, "statement": "select n, 'x' as x from t where $day::date is not null order by n desc",
        "params": {"day": "2026-01-01"},
    });
    let (_, reason, mut resume) = sleep(world.run(&WaitForSql, with.clone()).await);
    assert_eq!(reason, "the statement answers no row (after 1 look)");
    for (value, shown) in [("null", "null"), ("0", "0")] {
        run(
            &url,
            &format!("delete from t; insert into t values ({value})"),
            json!({}),
        )
        .await;
        let (_, reason, left) = sleep(world.resume(&WaitForSql, with.clone(), Some(resume)).await);
        assert!(
            reason.starts_with(&format!("the statement answers {shown} ")),
            "{reason}"
        );
        resume = left;
    }
    run(&url, "insert into t values (3)", json!({})).await;
    let seen = world.resume(&WaitForSql, with.clone(), Some(resume)).await;
    assert_eq!(output(seen), json!({"row": {"n": 3, "x": "x"}}));
    // What cannot become true by itself is not waited for.
    let with = json!({"url": url, "statement": "select nothing"});
    let failure = world.run(&WaitForSql, with).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
}

#[test]
fn a_task_without_one_source_of_statements_is_refused_when_the_file_is_read() {
    let kind = Sql::in_folder("nowhere");
    for with in [
        json!({"url": "postgres://h/d"}),
        json!({"url": "postgres://h/d", "statement": "select 1", "file": "x.sql"}),
        json!({"url": "postgres://h/d", "statement": " -- nothing"}),
        json!({"url": "postgres://h/d", "statement": "select 'open"}),
        json!({"url": "postgres://h/d", "file": "../x.sql"}),
        json!({"url": "postgres://h/d", "statement": "select 1", "params": 3}),
    ] {
        assert_eq!(kind.check(&table(with.clone())).len(), 1, "{with}");
    }
}
