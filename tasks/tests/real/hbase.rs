//! `hbase_put` against a real HBase.

use std::{collections::BTreeMap, time::Duration};

use pinwheel_tasks::{HbasePut, s3::ObjectStore};
use pinwheel_test_support::hbase::HBase;
use serde_json::{Value, json};

use crate::{
    cleaned::{Lake, key, pins},
    world::{World, output, table},
};

fn kind(store: &ObjectStore) -> HbasePut {
    HbasePut::new(store.clone())
}

/// All rows of a real table: column and value by row.
async fn read_back(hbase: &HBase, table: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let plain =
        |text: &Value| String::from_utf8(STANDARD.decode(text.as_str().unwrap()).unwrap()).unwrap();
    let client = reqwest::Client::new();
    let answer = client
        .get(format!("{}/{table}/*", hbase.url()))
        .header("accept", "application/json")
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    let body = answer.bytes().await.unwrap();
    let found: Value = serde_json::from_slice(&body).unwrap();
    found["Row"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let cells = row["Cell"].as_array().unwrap().iter();
            let cells = cells.map(|cell| (plain(&cell["column"]), plain(&cell["$"])));
            (plain(&row["key"]), cells.collect())
        })
        .collect()
}

async fn start() -> HBase {
    tokio::task::spawn_blocking(HBase::start).await.unwrap()
}

#[tokio::test]
async fn a_real_hbase_holds_every_row_as_text_and_the_latest_message_wins() {
    let lake = Lake::new().await;
    let hbase = start().await;
    let put = async |from: &str, more: Value| {
        let mut with = json!({"from": from, "url": hbase.url()});
        for (name, value) in table(more) {
            with[name] = value;
        }
        output(World::new().run(&kind(&lake.store), with).await)
    };
    let mut first = pins(1_200);
    first[7]["description"] = json!("No description available");
    let older = lake.clean("older", 0, &first).await;
    let done = put(&older, json!({})).await;
    assert_eq!(
        (&done["rows"], &done["created"], &done["requests"]),
        (&json!(1_200), &json!(true), &json!(3)),
        "{done}"
    );
    assert_eq!(done["cells"], 12_000 - 1);
    let found = read_back(&hbase, "pinterest_table").await;
    assert_eq!(found.len(), 1_200);
    let expected: BTreeMap<String, String> = [
        ("cf:category", "diy-and-crafts"),
        ("cf:title", "25 Súper \"Fun\" Summer\tCrafts, number 42"),
        ("cf:followers_count", "124000"),
        ("cf:index", "42"),
        (
            "cf:tag_list",
            "Summer Crafts For Kids,Fun Crafts For Kids,Summer Kids,Toddler Crafts",
        ),
        (
            "cf:description",
            "Keep the kids busy this summer with these easy diy crafts and projects. Creative and…",
        ),
        ("cf:downloaded", "true"),
        ("cf:is_image_or_video", "image"),
        (
            "cf:image_src",
            "https://i.pinimg.com/originals/b3/bc/e2/b3bce2964e8c8975387b39660eed5f16.jpg",
        ),
        ("cf:save_location", "/data/diy-and-crafts"),
    ]
    .map(|(column, value)| (column.to_owned(), value.to_owned()))
    .into();
    assert_eq!(found[&key(42)], expected);
    assert!(!found[&key(7)].contains_key("cf:description"));

    // A later message of one pin; then the older partition again, which hides nothing.
    let mut second = pins(1);
    second[0]["title"] = json!("a newer title");
    let newer = lake.clean("newer", 5_000, &second).await;
    assert_eq!(put(&newer, json!({})).await["created"], false);
    let again = put(&older, json!({"connections": 1, "batch_rows": 100})).await;
    assert_eq!(again["rows"], 1_200);
    let after = read_back(&hbase, "pinterest_table").await;
    assert_eq!(after[&key(0)]["cf:title"], "a newer title");
    assert_eq!(after[&key(42)], expected);
    assert_eq!(after.len(), 1_200);

    // Another table, key, family and mapping.
    let mapped = json!({
        "table": "default:by_index", "row_key": "index", "family": "m", "null_as": "-",
        "columns": {"id": "unique_id", "n:about": "description", "tags": "tag_list"}, "separator": " | ",
    });
    // A table has the families that its first columns name.
    put(&older, mapped.clone()).await;
    put(&older, mapped).await;
    let found = read_back(&hbase, "by_index").await;
    assert_eq!(found.len(), 1_200);
    assert_eq!(found["7"]["n:about"], "-");
    assert_eq!(found["7"]["m:id"], key(7));
    assert_eq!(
        found["7"]["m:tags"],
        "Summer Crafts For Kids | Fun Crafts For Kids | Summer Kids | Toddler Crafts"
    );
}

#[tokio::test]
async fn a_real_hbase_that_is_killed_under_load_loses_no_row() {
    const ROWS: usize = 60_000;
    let lake = Lake::new().await;
    let mut hbase = start().await;
    let from = lake.clean("p", 0, &pins(ROWS)).await;
    let world = World::new();
    let with =
        json!({"from": from, "url": hbase.url(), "request_timeout": "10s", "patience": "5m"});
    let writing = {
        let (world, store) = (world.clone(), lake.store.clone());
        tokio::spawn(async move { world.run(&kind(&store), with).await })
    };
    // Once it writes, first the master dies and then the gateway.
    let said = async |words: &str| {
        while !world.said.lock().unwrap().join("\n").contains(words) {
            assert!(
                !writing.is_finished(),
                "it ended before anything was killed"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    said("writing 60000 rows").await;
    hbase.kill_master();
    said("cannot write rows into table `pinterest_table` yet").await;
    hbase.kill_gateway();
    hbase.start_master();
    hbase.start_gateway();
    let done = output(writing.await.unwrap());
    assert_eq!(done["rows"], ROWS);
    assert!(done["repeated"].as_u64().unwrap() > 0, "{done}");
    let found = read_back(&hbase, "pinterest_table").await;
    assert_eq!(found.len(), ROWS);
    assert!(found.values().all(|cells| cells.len() == 10));
}

#[tokio::test]
async fn the_rate_into_a_real_hbase_is_told() {
    const ROWS: usize = 50_000;
    let lake = Lake::new().await;
    let hbase = start().await;
    let from = lake.clean("p", 0, &pins(ROWS)).await;
    for connections in [1, 4] {
        let with = json!({"from": from, "url": hbase.url(), "table": format!("t{connections}"), "connections": connections});
        let done = output(World::new().run(&kind(&lake.store), with).await);
        assert_eq!(done["rows"], ROWS);
        println!("{connections} connections: {} rows/s", done["rows_per_s"]);
    }
}
