//! The main job on the 200 real records: post, land, clean, report, and the live table beside it, through the binary.

use std::{collections::BTreeMap, fs};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use pinwheel_streaming::emulate::malformed_messages;
use serde_json::{Value, json};

use crate::harness::DEMONSTRATED;

/// One value of a one-row answer.
fn one(sql: &str) -> Value {
    let rows = DEMONSTRATED.standalone.query(sql);
    assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
    rows[0]
        .as_object()
        .expect("a row is an object")
        .values()
        .next()
        .expect("a row has a column")
        .clone()
}

/// The records as the file has them, by key.
fn originals() -> BTreeMap<String, Value> {
    include_str!("../../data/pins.ndjson")
        .lines()
        .map(|line| {
            let record: Value = serde_json::from_str(line).expect("the bundled file is NDJSON");
            (
                record["unique_id"]
                    .as_str()
                    .expect("every record has a key")
                    .to_owned(),
                record,
            )
        })
        .collect()
}

#[test]
fn the_demo_accounts_for_every_message() {
    let expected = json!({
        "accepted": 240, "landed": 245, "dead_lettered": 5, "duplicates": 40, "quarantined": 0,
        "cleaned": 200, "reports": 2, "live_rows": 200, "agreed": true,
    });
    assert_eq!(DEMONSTRATED.first, expected);
}

#[test]
fn a_second_demo_lands_only_what_is_new() {
    // The same 245 messages were posted again; the first 245 must not be landed twice, and keys stay distinct.
    assert_eq!(DEMONSTRATED.second, DEMONSTRATED.first);
    let cursor: i64 = DEMONSTRATED
        .standalone
        .psql("select sum(next) from cursor_position")
        .first()
        .and_then(|sum| sum.parse().ok())
        .expect("the cursor has a sum");
    assert_eq!(cursor, 2 * 245);
}

#[test]
fn each_post_is_one_row_whatever_was_posted_twice() {
    assert_eq!(one("select count(*) from pins"), 200);
    assert_eq!(one("select count(distinct unique_id) from pins"), 200);
}

#[test]
fn follower_counts_are_numbers_and_only_placeholders_are_null() {
    assert_eq!(
        one("select count(*) from pins where follower_count is null"),
        3
    );
    assert_eq!(one("select median(follower_count) from pins"), 25_000.0);
    assert_eq!(one("select max(follower_count) from pins"), 8_000_000);
    assert_eq!(one("select sum(follower_count) from pins"), 70_087_971);
}

#[test]
fn categories_have_the_counts_of_the_source() {
    let rows = DEMONSTRATED
        .standalone
        .query("select category, count(*) as posts from pins group by category");
    let found: BTreeMap<&str, i64> = rows
        .iter()
        .map(|row| {
            (
                row["category"].as_str().expect("a name"),
                row["posts"].as_i64().expect("a number"),
            )
        })
        .collect();
    let expected = BTreeMap::from([
        ("art", 24),
        ("diy-and-crafts", 20),
        ("quotes", 20),
        ("travel", 19),
        ("christmas", 19),
        ("beauty", 18),
        ("education", 14),
        ("finance", 13),
        ("tattoos", 13),
        ("home-decor", 12),
        ("mens-fashion", 11),
        ("vehicles", 9),
        ("event-planning", 8),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn tags_are_lists_of_nine_or_null() {
    let rows = DEMONSTRATED.standalone.query("select tag_list from pins");
    let nulls = rows.iter().filter(|row| row["tag_list"].is_null()).count();
    assert_eq!(nulls, 6);
    assert!(
        rows.iter()
            .filter_map(|row| row["tag_list"].as_array())
            .all(|tags| tags.len() == 9)
    );
}

#[test]
fn placeholders_are_null_and_other_text_is_unchanged() {
    assert_eq!(one("select count(*) from pins where image_src is null"), 4);
    assert_eq!(one("select count(*) from pins where title is null"), 3);
    let originals = originals();
    let rows = DEMONSTRATED
        .standalone
        .query("select unique_id, title from pins where title is not null");
    assert_eq!(rows.len(), 197);
    for row in &rows {
        let original = &originals[row["unique_id"].as_str().expect("a key")];
        assert_eq!(row["title"], original["title"]);
    }
    let non_ascii = rows
        .iter()
        .filter(|row| !row["title"].as_str().unwrap_or_default().is_ascii())
        .count();
    assert!(non_ascii > 0, "the sample has titles with non-ASCII text");
}

#[test]
fn dead_letters_of_the_live_path_carry_reason_offset_and_raw_bytes() {
    let rows = DEMONSTRATED.standalone.psql(
        "select rule || '|' || (\"offset\" >= 0) || '|' || coalesce(octet_length(raw), -1) from live.dead_letter order by rule",
    );
    assert_eq!(rows.len(), 2 * 5, "five per demo: {rows:?}");
    assert!(rows.iter().all(|row| row.contains("|true|")), "{rows:?}");
    let kept = DEMONSTRATED
        .standalone
        .psql("select distinct encode(raw, 'hex') from live.dead_letter where raw is not null");
    for message in malformed_messages() {
        let hex: String = message
            .value
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert!(
            kept.contains(&hex),
            "the raw bytes of `{}` are kept",
            message.name
        );
    }
}

#[test]
fn dead_letters_of_the_batch_carry_rule_offset_and_raw_bytes() {
    // The embedded S3 keeps objects as files.
    let folder = DEMONSTRATED
        .standalone
        .data_dir
        .join("s3/lake/clean/pins/_dead_letters");
    let mut letters = Vec::new();
    for run in fs::read_dir(folder)
        .expect("cleaning wrote dead letters")
        .flatten()
    {
        for object in fs::read_dir(run.path())
            .expect("a folder per run")
            .flatten()
        {
            let lines = fs::read_to_string(object.path()).expect("dead letters are UTF-8");
            letters.extend(
                lines
                    .lines()
                    .map(|line| serde_json::from_str::<Value>(line).expect("one object a line")),
            );
        }
    }
    assert_eq!(letters.len(), 2 * 5);
    for message in malformed_messages() {
        let raw = BASE64.encode(&message.value);
        let found: Vec<_> = letters
            .iter()
            .filter(|letter| letter["raw"] == raw.as_str())
            .collect();
        assert_eq!(
            found.len(),
            2,
            "`{}` once per demo: {letters:?}",
            message.name
        );
        for letter in found {
            assert!(
                letter["offset"].is_i64() && letter["partition"].is_i64(),
                "{letter}"
            );
            assert!(
                letter["rule"].as_str().is_some_and(|rule| !rule.is_empty()),
                "{letter}"
            );
        }
    }
}
#[test]
fn the_live_table_agrees_with_the_cleaned_rows() {
    let standalone = &DEMONSTRATED.standalone;
    let columns = [
        "unique_id",
        "index",
        "category",
        "title",
        "description",
        "follower_count",
        "image_src",
        "save_location",
        "is_image_or_video",
    ];
    let list = columns.map(|column| format!("\"{column}\"")).join(", ");
    let mut cleaned = standalone.query(&format!("select {list} from pins order by unique_id"));
    let live: Vec<Value> = standalone
        .psql(&format!("select row_to_json(row) from (select {list} from live.pins order by unique_id collate \"C\") as row"))
        .iter()
        .map(|line| serde_json::from_str(line).expect("Postgres writes JSON"))
        .collect();
    cleaned.sort_by_key(|row| row["unique_id"].to_string());
    assert_eq!(live.len(), 200);
    assert_eq!(cleaned, live);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reports_of_the_demo_are_pages_with_charts_and_files() {
    let root = tokio::task::block_in_place(|| std::sync::LazyLock::force(&DEMONSTRATED))
        .standalone
        .url("");
    let get = async |path: &str| {
        let answer = reqwest::get(format!("{}{path}", root.trim_end_matches('/')))
            .await
            .expect("the pages are served");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.text().await.expect("text")
    };
    assert!(get("/reports").await.contains("/reports/media_types/"));
    let kept: Value =
        serde_json::from_str(&get("/api/v1/reports/posts_by_category").await).expect("JSON");
    let kept = kept["reports"].as_array().expect("a list");
    assert_eq!(kept.len(), 2, "one of each demo");
    let address = format!(
        "/reports/posts_by_category/{}",
        kept[0]["kept"].as_str().expect("a folder")
    );
    let page = get(&address).await;
    assert!(
        page.contains("<svg") && page.contains("diy-and-crafts"),
        "{page}"
    );
    let csv = get(&format!("{address}/csv")).await;
    assert!(
        csv.starts_with("category,posts,median_followers\r\nart,24,"),
        "{csv}"
    );
}
