//! `sql_copy` in a Postgres.

use pinwheel_tasks::{FailureClass, Kind, Sql, SqlCopy, s3::Location};
use pinwheel_test_support::postgres::Postgres;
use serde_json::{Value, json};

use crate::{
    cleaned::{Lake, key, pins},
    world::{World, output, table},
};

async fn database() -> String {
    Postgres::shared().empty_database().await
}

async fn rows(url: &str, statement: &str) -> Value {
    let with = json!({"url": url, "statement": statement});
    output(World::new().run(&Sql::in_folder("nowhere"), with).await)["rows"].clone()
}

async fn copy(lake: &Lake, with: Value) -> Value {
    output(
        World::new()
            .run(&SqlCopy::new(lake.store.clone()), with)
            .await,
    )
}

#[tokio::test]
async fn a_partition_is_upserted_by_key_and_a_rerun_changes_nothing() {
    let lake = Lake::new().await;
    let url = database().await;
    let mut first = pins(300);
    first[3]["description"] = json!("No description available");
    let from = lake.clean("first", 0, &first).await;
    let with = json!({"from": from, "url": url, "table": "pins", "create": true});
    assert_eq!(
        copy(&lake, with.clone()).await,
        json!({"table": "pins", "created": true, "rows": 300, "inserted": 300, "updated": 0, "unchanged": 0})
    );
    let found = rows(&url, "select * from pins where index = 42").await;
    assert_eq!(found[0]["unique_id"], key(42));
    assert_eq!(
        found[0]["title"],
        "25 Súper \"Fun\" Summer\tCrafts, number 42"
    );
    assert_eq!(found[0]["follower_count"], 124_000);
    assert_eq!(found[0]["downloaded"], true);
    assert_eq!(
        found[0]["tag_list"],
        json!([
            "Summer Crafts For Kids",
            "Fun Crafts For Kids",
            "Summer Kids",
            "Toddler Crafts"
        ])
    );
    let found = rows(
        &url,
        "select description is null as it from pins where index = 3",
    )
    .await;
    assert_eq!(found, json!([{"it": true}]));
    assert_eq!(
        copy(&lake, with).await,
        json!({"table": "pins", "created": false, "rows": 300, "inserted": 0, "updated": 0, "unchanged": 300})
    );

    let mut second = pins(302).split_off(298);
    second[0]["title"] = json!("a newer title");
    let from = lake.clean("second", 1_000, &second).await;
    let with = json!({"from": from, "url": url, "table": "public.pins"});
    assert_eq!(
        copy(&lake, with).await,
        json!({"table": "public.pins", "created": false, "rows": 4, "inserted": 2, "updated": 1, "unchanged": 1})
    );
    let found = rows(
        &url,
        "select count(*) as n, max(title) filter (where index = 298) as t from pins",
    )
    .await;
    assert_eq!(found, json!([{"n": 302, "t": "a newer title"}]));
}

#[tokio::test]
async fn columns_are_mapped_and_the_tables_own_types_decide() {
    let lake = Lake::new().await;
    let url = database().await;
    rows(
        &url,
        "create table \"the pins\" (id uuid primary key, n numeric, tags jsonb, words text, j json, seen timestamptz default now(), note text default 'mine');
         insert into \"the pins\" (id, note) values ('00000000-0000-4000-8000-000000000001', 'kept'); select 1",
    )
    .await;
    let from = lake.clean("p", 0, &pins(2)).await;
    let with = json!({
        "from": from, "url": url, "table": "the pins",
        "columns": {"id": "unique_id", "n": "follower_count", "tags": "tag_list", "words": "tag_list", "j": "tag_list"},
    });
    let done = copy(&lake, with.clone()).await;
    assert_eq!(
        (&done["inserted"], &done["updated"]),
        (&json!(1), &json!(1)),
        "{done}"
    );
    assert_eq!(copy(&lake, with).await["unchanged"], 2);
    let found = rows(
        &url,
        "select n, tags ->> 1 as tag, words, j ->> 0 as j, note, seen is not null as seen from \"the pins\" order by id",
    )
    .await;
    let words = "Summer Crafts For Kids,Fun Crafts For Kids,Summer Kids,Toddler Crafts";
    let row = |note: &str| json!({"n": 124_000, "tag": "Fun Crafts For Kids", "words": words, "j": "Summer Crafts For Kids", "note": note, "seen": true});
    assert_eq!(found, json!([row("mine"), row("kept")]));
}

#[tokio::test]
async fn a_partition_that_does_not_fit_changes_nothing_at_all() {
    let lake = Lake::new().await;
    let url = database().await;
    let from = lake.clean("p", 0, &pins(500)).await;
    let kind = SqlCopy::new(lake.store.clone());
    let fail = async |with: Value| World::new().run(&kind, with).await.unwrap_err();
    let with = json!({"from": from, "url": url, "table": "pins", "columns": {"unique_id": "unique_id", "index": "index"}});

    let missing = fail(with.clone()).await;
    assert_eq!(missing.message, "there is no table \"pins\"");
    assert_eq!(missing.hint.unwrap(), "create it, or write `create = true`");

    rows(
        &url,
        "create table pins (unique_id uuid, index smallint check (index < 400)); select 1",
    )
    .await;
    let no_key = fail(with.clone()).await;
    assert_eq!(no_key.class, FailureClass::Permanent);
    assert!(no_key.message.contains("42P10"), "{no_key}");

    rows(
        &url,
        "alter table pins add primary key (unique_id); select 1",
    )
    .await;
    let refused = fail(with.clone()).await;
    assert!(
        refused.message.contains("violates check constraint"),
        "{refused}"
    );
    assert_eq!(
        rows(&url, "select count(*) as n from pins").await,
        json!([{"n": 0}])
    );

    let mut wrong = with.clone();
    wrong["columns"]["index"] = json!("title");
    let wrong = fail(wrong).await;
    assert_eq!(wrong.class, FailureClass::Permanent);
    assert!(
        wrong
            .message
            .contains("invalid input syntax for type smallint")
            && wrong.message.contains(", line 1, column index ("),
        "{wrong}"
    );

    let mut coarse = with.clone();
    coarse["columns"] = json!({"unique_id": "unique_id", "index": "downloaded"});
    coarse["key"] = json!(["index"]);
    rows(
        &url,
        "alter table pins drop constraint pins_index_check, alter index type text using index::text, add unique (index); select 1",
    )
    .await;
    let coarse = fail(coarse).await;
    assert_eq!(
        coarse.message,
        "the partition has two rows with the same index"
    );

    let mut changed = with;
    changed["columns"] = json!({"unique_id": "unique_id", "nothing": "index"});
    let unknown = fail(changed).await;
    assert_eq!(unknown.message, "table \"pins\" has no column `nothing`");
    assert_eq!(
        rows(&url, "select count(*) as n from pins").await,
        json!([{"n": 0}])
    );
}

#[tokio::test]
async fn a_part_that_was_changed_is_not_copied() {
    let lake = Lake::new().await;
    let url = database().await;
    let from = lake.clean("p", 0, &pins(5)).await;
    let at: Location = from.parse().unwrap();
    let manifest: Value = serde_json::from_slice(&lake.store.get(&at).await.unwrap()).unwrap();
    let part = Location::new("lake", manifest["parts"][0]["key"].as_str().unwrap());
    let mut body = lake.store.get(&part).await.unwrap().to_vec();
    body[10] ^= 1;
    lake.store
        .put(&part, body.into(), "application/octet-stream")
        .await
        .unwrap();
    let with = json!({"from": from, "url": url, "table": "pins", "create": true});
    let failure = World::new()
        .run(&SqlCopy::new(lake.store.clone()), with)
        .await
        .unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
    assert!(
        failure.message.contains("was changed after it was written"),
        "{failure}"
    );
    // The table was of the same transaction.
    let found = rows(&url, "select to_regclass('pins') is null as it").await;
    assert_eq!(found, json!([{"it": true}]));
}

#[tokio::test]
async fn mistakes_are_found_when_the_file_is_read() {
    let lake = Lake::new().await;
    let kind = SqlCopy::new(lake.store.clone());
    let with = json!({
        "from": "clean", "table": "a.b.c", "key": ["id"], "columns": {"x": "unique_id"},
    });
    let found: Vec<String> = kind
        .check(&table(with))
        .into_iter()
        .map(|problem| format!("{}: {}", problem.field.unwrap_or_default(), problem.message))
        .collect();
    assert_eq!(
        found,
        [
            ": neither `connection` nor `url` is given",
            "from: expected `s3://bucket/key`, found `clean`",
            "table: `a.b.c` is no name of a table",
            "key: `key` names `id`, which `columns` does not write",
        ]
    );
}
