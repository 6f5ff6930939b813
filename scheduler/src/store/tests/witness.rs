//! What Postgres says about an engine that runs: for the engine's tests, which speak no SQL.

use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgListener};

const BEGINNING: &str = "it begins here";
const END: &str = "it ends here";

/// Tells of every renewal of a lease.
pub(crate) async fn hear_renewals(url: &str) -> PgListener {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(
        "create function tell() returns trigger language plpgsql as
            $$ begin perform pg_notify('renewal', new.name); return null; end $$;
        create trigger tell after update of lease_until on worker for each row execute function tell();",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let mut listener = PgListener::connect(url).await.unwrap();
    listener.listen("renewal").await.unwrap();
    listener
}

/// Reads in the log of Postgres what a database was asked.
pub(crate) struct Witness {
    connection: PgConnection,
}

impl Witness {
    /// Connections that are opened from now on have their statements logged.
    pub(crate) async fn of(url: &str) -> Self {
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
        Self {
            connection: PgConnection::connect(url).await.unwrap(),
        }
    }

    /// Counts from here.
    pub(crate) async fn begin(&mut self) {
        self.say(BEGINNING).await;
    }

    /// The first lines of the statements that were asked meanwhile, in order.
    pub(crate) async fn end(mut self) -> Vec<String> {
        self.say(END).await;
        let log: String = sqlx::query_scalar(
            "select pg_read_file(current_setting('data_directory') || '/../log')",
        )
        .fetch_one(&mut self.connection)
        .await
        .unwrap();
        log.lines()
            .filter_map(|line| {
                let (_, message) = line.split_once("LOG:  ")?;
                message.strip_prefix("statement: ").or_else(|| {
                    let (_name, statement) = message.strip_prefix("execute ")?.split_once(": ")?;
                    Some(statement)
                })
            })
            .skip_while(|statement| !statement.contains(BEGINNING))
            .skip(1)
            .take_while(|statement| !statement.contains(END))
            .map(ToOwned::to_owned)
            .collect()
    }

    async fn say(&mut self, words: &str) {
        sqlx::raw_sql(AssertSqlSafe(format!("select '{words}'")))
            .execute(&mut self.connection)
            .await
            .unwrap();
    }
}

/// Every look at what is due fails.
pub(crate) struct Outage {
    connection: PgConnection,
}

impl Outage {
    /// A sequence counts the failures: it is not rolled back.
    pub(crate) async fn of(url: &str) -> Self {
        let mut connection = PgConnection::connect(url).await.unwrap();
        sqlx::raw_sql(
            "create sequence failure minvalue 0 start 0;
            create function fail() returns boolean stable language plpgsql as
                $$ begin perform nextval('failure'); raise exception 'not now'; end $$;
            alter table sleeper rename to sleeper_that_is_away;
            create view sleeper as select * from sleeper_that_is_away where fail();",
        )
        .execute(&mut connection)
        .await
        .unwrap();
        Self { connection }
    }

    /// Waits for so many failures, and ends it.
    pub(crate) async fn end_after(mut self, failures: i64) {
        while sqlx::query_scalar::<_, i64>("select last_value from failure")
            .fetch_one(&mut self.connection)
            .await
            .unwrap()
            < failures
        {}
        sqlx::raw_sql("drop view sleeper; alter table sleeper_that_is_away rename to sleeper")
            .execute(&mut self.connection)
            .await
            .unwrap();
    }
}
