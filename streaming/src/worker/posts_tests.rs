//! How rows get into the table of posts, against a real Postgres: copied or upserted, they are the same rows.

use std::{collections::BTreeMap, sync::Arc};

use pinwheel_tasks::dataset::Dataset;
use pinwheel_test_support::postgres::Postgres;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{
    StreamDefinition,
    fold::Folder,
    plan::Plan,
    posts::Way,
    sink::{self, Sink},
    tests::{Database, T0, at, fold, folder, fresh, pin, plan_of},
};

const EVERY_TYPE: &str = r#"
id = "things"
topic = "things"
key = "id"

[[fields]]
name = "id"
type = "integer"
nullable = false

[[fields]]
name = "name"
type = "text"

[[fields]]
name = "weight"
type = "float"

[[fields]]
name = "is_new"
type = "boolean"

[[fields]]
name = "seen"
type = "timestamp"

[[fields]]
name = "tags"
type = "tags"
"#;

const POSTS: &str = "[stream]\nid = \"pins\"\ntopic = \"pins\"\ndataset = \"pins\"\n[sinks.posts]\ntable = \"pins\"\n";

fn things(table: &str) -> Arc<Plan> {
    let dataset = Dataset::parse("things.toml", EVERY_TYPE).expect("a valid dataset");
    let stream = POSTS
        .replace("\"pins\"\n[", "\"things\"\n[")
        .replace("table = \"pins\"", &format!("table = \"{table}\""));
    let stream = StreamDefinition::parse("things.toml", &stream).expect("a valid stream");
    Arc::new(Plan::new(stream, Arc::new(dataset)).expect("the stream fits its dataset"))
}

fn numbered(number: usize, title: &str) -> Vec<u8> {
    let mut pin = pin(number % 200);
    let key = format!("00000000-0000-4000-8000-{number:012}");
    pin.insert("unique_id".to_owned(), json!(key));
    pin.insert("title".to_owned(), json!(title));
    serde_json::to_vec(&pin).expect("serialises")
}

async fn write(pool: &PgPool, sink: &Sink, plan: &Plan, folder: &mut Folder, way: Way) {
    let rows = folder.take().posts;
    let posts = plan.posts.as_ref().expect("the stream keeps posts");
    let mut transaction = pool.begin().await.expect("begun");
    sink.table
        .write(&mut transaction, plan, posts, &rows, way)
        .await
        .expect("written");
    transaction.commit().await.expect("committed");
}

#[tokio::test]
async fn a_row_is_the_same_to_the_value_whether_it_was_copied_or_upserted() {
    let values = [
        json!({"id": 1, "name": "plain", "weight": 1.5, "is_new": true, "seen": "2026-01-02 03:04:05", "tags": "a,b"}),
        json!({"id": -2, "name": "", "weight": -0.0, "is_new": false, "seen": "1969-12-31 23:59:59", "tags": "NULL,q\"uote,back\\slash,{brace}"}),
        json!({"id": i64::MAX, "name": "日本 é \u{1F600}\n\t\\N", "weight": 1e300, "is_new": true, "seen": "2026-01-02 03:04:05", "tags": "one"}),
        json!({"id": 3, "name": null, "weight": null, "is_new": null, "seen": null, "tags": null}),
        json!({"id": 4, "name": null, "weight": null, "is_new": null, "seen": null, "tags": "", "more": {"a": [1, "ü"]}}),
    ];
    let mut tables: Vec<Vec<Value>> = Vec::new();
    let database = Database::open_for(&things("copied")).await;
    for (table, way) in [("copied", Way::Copy), ("upserted", Way::Upsert)] {
        let plan = things(table);
        let misfit = database.sink.prepare(&plan).await.expect("prepared");
        assert_eq!(misfit, None);
        let mut folder = folder(&plan, &fresh(1));
        for (offset, value) in values.iter().enumerate() {
            let text = value.to_string();
            let time = if offset == 0 { None } else { Some(T0) };
            let mut message = at(0, offset as i64, T0, text.as_bytes());
            message.timestamp_ms = time;
            folder.add(message, T0);
        }
        write(&database.pool, &database.sink, &plan, &mut folder, way).await;
        let rows = format!("select to_jsonb(kept) - 'updated_at' from {table} as kept order by id");
        tables.push(
            sqlx::query_scalar(sqlx::AssertSqlSafe(rows))
                .fetch_all(&database.pool)
                .await
                .expect("rows"),
        );
    }
    assert_eq!(tables[0].len(), values.len());
    assert_eq!(tables[0], tables[1]);
    assert_eq!(tables[0][0]["id"], json!(-2));
    assert_eq!(
        tables[0][0]["tags"],
        json!(["NULL", "q\"uote", "back\\slash", "{brace}"])
    );
    assert_eq!(tables[0][3]["extra"], json!({"more": {"a": [1, "ü"]}}));
}

#[tokio::test]
async fn a_batch_copies_what_is_new_and_upserts_what_is_known() {
    let plan = plan_of(POSTS);
    let database = Database::open_for(&plan).await;
    let found = BTreeMap::from([(0, 0)]);
    let mut held = database.sink.take(&plan, "a", &found).await.expect("taken");
    for (first, title) in [(0, "first"), (70, "second")] {
        let offset = held[&0].next_offset;
        let values: Vec<_> = (first..first + 100)
            .map(|number| numbered(number, title))
            .collect();
        let messages: Vec<_> = values
            .iter()
            .zip(offset..)
            .map(|(value, offset)| at(0, offset, T0, value))
            .collect();
        let folded = fold(&plan, &held, &messages);
        assert_eq!(database.sink.table.way(&folded.posts), Way::Copy);
        database
            .sink
            .commit(&plan, &held, folded)
            .await
            .expect("committed");
        held = database.sink.offsets(&plan).await.expect("read");
    }
    let by_title: Vec<(String, i64, i64)> = sqlx::query_as(
        "select title, count(*), max(kafka_offset) from pins group by title order by title",
    )
    .fetch_all(&database.pool)
    .await
    .expect("rows");
    assert_eq!(
        by_title,
        [
            ("first".to_owned(), 70, 69),
            ("second".to_owned(), 100, 199)
        ]
    );
}

#[tokio::test]
async fn a_key_that_another_worker_inserts_between_look_and_copy_is_upserted() {
    let plan = plan_of(POSTS);
    let database = Database::open_for(&plan).await;
    let found = BTreeMap::from([(0, 0), (1, 0)]);
    let held = database.sink.take(&plan, "a", &found).await.expect("taken");
    // Another worker has written a key of the batch and has not committed it yet.
    let mut other = database.pool.begin().await.expect("begun");
    sqlx::query("insert into pins (unique_id, title, kafka_partition, kafka_offset, kafka_timestamp) values ($1, 'older', 1, 5, '2020-01-01')")
        .bind("00000000-0000-4000-8000-000000000030")
        .execute(&mut *other)
        .await
        .expect("inserted");
    let values: Vec<_> = (0..100).map(|number| numbered(number, "ours")).collect();
    let messages: Vec<_> = values
        .iter()
        .zip(0..)
        .map(|(value, offset)| at(0, offset, T0, value))
        .collect();
    let folded = fold(&plan, &held, &messages);
    assert_eq!(database.sink.table.way(&folded.posts), Way::Copy);
    let waits = async {
        while database
            .count("select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like 'copy %'")
            .await
            == 0
        {}
        other.commit().await.expect("committed");
    };
    let (committed, ()) = tokio::join!(database.sink.commit(&plan, &held, folded), waits);
    committed.expect("committed");
    assert_eq!(
        database
            .count("select count(*) from pins where title = 'ours'")
            .await,
        100
    );
    assert_eq!(
        database
            .count("select next_offset from stream_offset where partition = 0")
            .await,
        100
    );
}

#[tokio::test]
async fn a_table_whose_columns_have_other_types_is_upserted_into() {
    let plan = plan_of(POSTS);
    let url = Postgres::shared().empty_database().await;
    let pool = sink::pool(&url, 2).expect("a pool");
    sink::migrate(&pool).await.expect("the schema");
    let create = &plan.posts.as_ref().expect("posts").create_table;
    let create = create.replace(
        "\"follower_count\" bigint",
        "\"follower_count\" double precision",
    );
    sqlx::query(sqlx::AssertSqlSafe(create))
        .execute(&pool)
        .await
        .expect("made");
    let sink = Sink::new(pool.clone());
    assert_eq!(sink.prepare(&plan).await.expect("prepared"), None);
    let values: Vec<_> = (0..100).map(|number| numbered(number, "a")).collect();
    let mut folder = folder(&plan, &fresh(1));
    for (offset, value) in values.iter().enumerate() {
        folder.add(at(0, offset as i64, T0, value), T0);
    }
    let rows = folder.take().posts;
    assert_eq!(sink.table.way(&rows), Way::Upsert);
}

#[tokio::test]
async fn after_a_batch_of_known_keys_the_next_ones_are_upserted_without_a_look() {
    let plan = plan_of(POSTS);
    let database = Database::open_for(&plan).await;
    let mut folder = folder(&plan, &fresh(1));
    let values: Vec<_> = (0..100).map(|number| numbered(number, "a")).collect();
    let mut offset = 0;
    let mut ways = Vec::new();
    for _ in 0..24 {
        for value in &values {
            folder.add(at(0, offset, T0, value), T0);
            offset += 1;
        }
        let rows = folder.take().posts;
        let way = database.sink.table.way(&rows);
        let posts = plan.posts.as_ref().expect("posts");
        let mut connection = database.pool.acquire().await.expect("a connection");
        database
            .sink
            .table
            .write(&mut connection, &plan, posts, &rows, way)
            .await
            .expect("written");
        ways.push(way);
    }
    let looks: Vec<usize> = (0..ways.len())
        .filter(|batch| ways[*batch] == Way::Copy)
        .collect();
    assert_eq!(looks, [0, 1, 22], "the first is new, the second known");
    assert_eq!(
        database.count("select min(kafka_offset) from pins").await,
        2300
    );
}

#[tokio::test]
async fn keys_are_looked_up_by_the_index_though_the_plan_was_made_on_an_empty_table() {
    let plan = plan_of(POSTS);
    let database = Database::open_for(&plan).await;
    let find_keys = &plan.posts.as_ref().expect("posts").find_keys;
    let mut connection = database.pool.acquire().await.expect("a connection");
    for statement in [
        "set plan_cache_mode = force_generic_plan".to_owned(),
        format!("prepare look(text[]) as {find_keys}"),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&mut *connection)
            .await
            .expect("executed");
    }
    let lines: Vec<String> = sqlx::query_scalar("explain execute look('{a,b}')")
        .fetch_all(&mut *connection)
        .await
        .expect("a plan");
    let lines = lines.join("\n");
    assert!(lines.contains("pins_pkey"), "{lines}");
}
