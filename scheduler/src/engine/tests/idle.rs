//! An idle engine asks nothing but its heartbeat. Postgres logs every statement it is asked, and the log is read back.

use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgListener};

use super::*;

/// What an idle process asks, by the first line of the statement's file.
const HEARTBEAT: [&str; 2] = [
    include_str!("../../store/queries/renew_lease.sql"),
    include_str!("../../store/queries/extend_watch.sql"),
];
const DAGS: usize = 1_000;
const BEATS: usize = 20;

#[tokio::test]
async fn an_idle_engine_with_a_thousand_dags_asks_nothing_but_its_heartbeat() {
    let (_, url) = fresh_store().await;
    let folder = tempfile::tempdir().unwrap();
    for number in 0..DAGS {
        let text = format!(
            "[dag]\nid = \"daily_{number}\"\nschedule = \"@daily\"\nstart = 2090-01-01T00:00:00Z\n\n[tasks.a]\nkind = \"test\"\n"
        );
        fs::write(folder.path().join(format!("daily_{number}.toml")), text).unwrap();
    }
    let mut beats = hear_beats(&url).await;
    let mut witness = log_statements(&url).await;
    let store = Store::connect(&url).await.unwrap();
    // Long enough to outlive a beat that comes late on a busy machine, short enough to end many times during the test
    // if it were not renewed.
    let idle = Options {
        heartbeat: Duration::from_millis(100),
        lease: Duration::from_secs(1),
        dag_poll: Duration::from_millis(50),
        dag_folder: Some(folder.path().to_owned()),
        ..options("idle")
    };
    let engine = start_with(
        &store,
        noop(),
        Roles::Both,
        idle,
        Arc::new(SystemClock::new()),
    )
    .await;
    assert_eq!(store.published().await.unwrap().len(), DAGS);
    // What the start brings along is over once the lease has been renewed a few times.
    for _ in 0..5 {
        beats.recv().await.unwrap();
    }
    say(&mut witness, "it is quiet from here").await;
    for _ in 0..BEATS {
        beats.recv().await.unwrap();
    }
    say(&mut witness, "to here").await;
    let log = read_log(&mut witness).await;
    let asked = asked_between(&log, "it is quiet from here", "to here");
    let titles = HEARTBEAT.map(|statement| statement.lines().next().unwrap());
    let renewals = asked.iter().filter(|one| **one == titles[0]).count();
    assert!(renewals >= BEATS - 1, "{renewals} renewals: {asked:#?}");
    let others: Vec<_> = asked.iter().filter(|one| !titles.contains(one)).collect();
    assert!(others.is_empty(), "in {BEATS} heartbeats: {others:#?}");
    finish(engine).await;
}

/// Tells of every renewal of a lease.
async fn hear_beats(url: &str) -> PgListener {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(
        "create function tell() returns trigger language plpgsql as
            $$ begin perform pg_notify('beat', new.name); return null; end $$;
        create trigger tell after update of lease_until on worker for each row execute function tell();",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let mut listener = PgListener::connect(url).await.unwrap();
    listener.listen("beat").await.unwrap();
    listener
}

/// From now on every connection to the database that is opened has its statements logged; this one as well.
async fn log_statements(url: &str) -> PgConnection {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let database: String = sqlx::query_scalar("select current_database()::text")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let statement = format!("alter database {database} set log_statement = 'all'");
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .unwrap();
    PgConnection::connect(url).await.unwrap()
}

/// Leaves words in the log.
async fn say(witness: &mut PgConnection, words: &str) {
    sqlx::raw_sql(AssertSqlSafe(format!("select '{words}'")))
        .execute(witness)
        .await
        .unwrap();
}

async fn read_log(witness: &mut PgConnection) -> String {
    sqlx::query_scalar("select pg_read_file(current_setting('data_directory') || '/../log')")
        .fetch_one(witness)
        .await
        .unwrap()
}

/// The first lines of the statements that were asked between two others.
fn asked_between<'l>(log: &'l str, from: &str, to: &str) -> Vec<&'l str> {
    log.lines()
        .filter_map(|line| {
            let (_, message) = line.split_once("LOG:  ")?;
            message.strip_prefix("statement: ").or_else(|| {
                let (_name, statement) = message.strip_prefix("execute ")?.split_once(": ")?;
                Some(statement)
            })
        })
        .skip_while(|statement| !statement.contains(from))
        .skip(1)
        .take_while(|statement| !statement.contains(to))
        .collect()
}
