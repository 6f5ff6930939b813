//! The worker without Kafka: what is folded, and what the transaction does to a real Postgres.

use std::{collections::BTreeMap, sync::Arc};

use pinwheel_tasks::dataset::Dataset;
use pinwheel_test_support::postgres::Postgres;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{
    StreamDefinition,
    fold::{Folded, Folder, Message, Position},
    plan::Plan,
    sink::{self, Held, NotCommitted, Sink},
};
use crate::{emulate, live};

pub(super) const MINUTE: i64 = 60_000;
/// 2026-01-01T00:00:00Z.
pub(super) const T0: i64 = 1_767_225_600_000;

/// The shipped stream with one window of one minute.
const ONE_WINDOW: &str = r#"
[stream]
id = "pins"
topic = "pins"
dataset = "pins"
lateness = "1m"

[sinks.posts]
table = "pins"

[windows.posts_per_category]
every = "1m"
by = "category"
follow = "follower_count"
"#;

fn plan() -> Arc<Plan> {
    plan_of(ONE_WINDOW)
}

pub(super) fn plan_of(text: &str) -> Arc<Plan> {
    let dataset = Dataset::parse(
        "pins.toml",
        include_str!("../../../dags/datasets/pins.toml"),
    )
    .expect("the shipped dataset is valid");
    let stream = StreamDefinition::parse("pins.toml", text).expect("a valid stream");
    Arc::new(Plan::new(stream, Arc::new(dataset)).expect("the stream fits its dataset"))
}

pub(super) fn pin(line: usize) -> serde_json::Map<String, Value> {
    let text = include_str!("../../../data/pins.ndjson")
        .lines()
        .nth(line)
        .expect("the file has 200 lines");
    serde_json::from_str(text).expect("the file is NDJSON")
}

pub(super) fn titled(line: usize, title: &str) -> Vec<u8> {
    let mut pin = pin(line);
    pin.insert("title".to_owned(), json!(title));
    serde_json::to_vec(&pin).expect("serialises")
}

pub(super) fn folder(plan: &Arc<Plan>, held: &BTreeMap<i32, Held>) -> Folder {
    let positions = held.iter().map(|(partition, held)| {
        (
            *partition,
            Position {
                next_offset: held.next_offset,
                watermark_ms: held.watermark_ms,
            },
        )
    });
    Folder::new(Arc::clone(plan), positions.collect())
}

pub(super) fn at(partition: i32, offset: i64, timestamp_ms: i64, value: &[u8]) -> Message<'_> {
    Message {
        partition,
        offset,
        timestamp_ms: Some(timestamp_ms),
        key: Some(b"key"),
        value: Some(value),
    }
}

pub(super) fn fresh(partitions: i32) -> BTreeMap<i32, Held> {
    (0..partitions)
        .map(|partition| {
            (
                partition,
                Held {
                    generation: 1,
                    next_offset: 0,
                    watermark_ms: None,
                },
            )
        })
        .collect()
}

#[test]
fn the_latest_offset_of_a_key_wins_in_a_batch() {
    let plan = plan();
    let mut folder = folder(&plan, &fresh(2));
    folder.add(at(0, 0, T0, &titled(1, "first")), T0);
    folder.add(at(0, 1, T0 - MINUTE, &titled(1, "second")), T0);
    folder.add(
        at(1, 0, T0 - 2 * MINUTE, &titled(1, "older, elsewhere")),
        T0,
    );
    let folded = folder.take();
    let title = plan.dataset.position("title").expect("a column");
    assert_eq!(folded.posts.len(), 1);
    let row = folded.posts.iter().next().expect("one");
    assert_eq!(row.fields().nth(title), Some(Some(&b"second"[..])));
    assert_eq!(folded.advances[&0].next_offset, 2);
    assert_eq!(folded.advances[&1].events, 1);
}

#[test]
fn a_message_before_the_position_or_of_another_partition_is_passed_over() {
    let plan = plan();
    let mut held = fresh(1);
    held.insert(
        0,
        Held {
            generation: 1,
            next_offset: 5,
            watermark_ms: None,
        },
    );
    let mut folder = folder(&plan, &held);
    folder.add(at(0, 4, T0, &titled(1, "seen")), T0);
    folder.add(at(7, 0, T0, &titled(1, "not ours")), T0);
    assert_eq!(folder.size(), (0, 0));
    assert!(folder.take().advances.is_empty());
}

#[test]
fn the_watermark_never_falls_and_a_wrong_clock_does_not_move_it() {
    let plan = plan();
    let mut folder = folder(&plan, &fresh(1));
    folder.add(
        at(0, 0, T0 + 10 * MINUTE, &titled(1, "a")),
        T0 + 10 * MINUTE,
    );
    let first = folder.take().advances[&0].watermark_ms;
    assert_eq!(first, Some(T0 + 9 * MINUTE), "one minute of lateness");
    folder.add(
        at(0, 1, T0 + 20 * MINUTE, &titled(2, "from the future")),
        T0 + 10 * MINUTE,
    );
    folder.add(at(0, 2, T0, &titled(3, "late")), T0 + 10 * MINUTE);
    let folded = folder.take();
    assert_eq!(folded.advances[&0].watermark_ms, first);
    assert_eq!(folded.advances[&0].late, 1);
    assert_eq!(
        folded
            .windows
            .values()
            .map(|counts| counts.events)
            .sum::<i64>(),
        2,
        "a late event is counted all the same"
    );
}

#[test]
fn the_malformed_messages_are_dead_letters_with_their_bytes() {
    let plan = plan();
    let mut folder = folder(&plan, &fresh(1));
    let malformed = emulate::malformed_messages();
    for (offset, message) in malformed.iter().enumerate() {
        folder.add(at(0, offset as i64, T0, &message.value), T0);
    }
    folder.add(
        Message {
            value: None,
            ..at(0, 5, T0, b"")
        },
        T0,
    );
    let folded = folder.take();
    assert!(folded.posts.is_empty() && folded.windows.is_empty());
    let rules: Vec<_> = folded
        .dead
        .iter()
        .map(|letter| letter.rule.as_str())
        .collect();
    assert_eq!(
        rules,
        [
            "not_json",
            "wrong_type:index",
            "missing_field:category",
            "not_utf8",
            "empty",
            "tombstone"
        ]
    );
    for (letter, message) in folded.dead.iter().zip(&malformed) {
        assert_eq!(
            letter.raw.as_deref(),
            Some(message.value.as_slice()),
            "{}",
            message.name
        );
    }
    assert_eq!(folded.dead[5].raw, None);
}

/// A database of its own, with the schema `live`.
pub(super) struct Database {
    pub(super) sink: Sink,
    pub(super) pool: PgPool,
}

impl Database {
    async fn open() -> Self {
        Self::open_for(&plan()).await
    }

    pub(super) async fn open_for(plan: &Plan) -> Self {
        let url = Postgres::shared().empty_database().await;
        let pool = sink::worker_pool(&url, 4).expect("a pool");
        let database = Self {
            sink: Sink::new(pool.clone()),
            pool,
        };
        let misfit = database.sink.prepare(plan).await.expect("prepared");
        assert_eq!(misfit, None);
        database
    }

    pub(super) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(&self.pool)
            .await
            .expect("a count")
    }
}

pub(super) fn fold(
    plan: &Arc<Plan>,
    held: &BTreeMap<i32, Held>,
    messages: &[Message<'_>],
) -> Folded {
    let mut folder = folder(plan, held);
    for message in messages {
        folder.add(*message, T0);
    }
    folder.take()
}

async fn take(database: &Database, owner: &str, partitions: i32) -> BTreeMap<i32, Held> {
    let found = (0..partitions).map(|partition| (partition, 0)).collect();
    database
        .sink
        .take(&plan(), owner, &found)
        .await
        .expect("taken")
}

#[tokio::test]
async fn the_real_pins_are_right_to_the_value_whatever_was_posted_twice() {
    let database = Database::open().await;
    let plan = plan();
    let mut held = take(&database, "a", 2).await;
    let lines: Vec<&str> = include_str!("../../../data/pins.ndjson").lines().collect();
    for (offset, half) in lines
        .iter()
        .chain(&lines[..40])
        .collect::<Vec<_>>()
        .chunks(120)
        .enumerate()
    {
        let first = offset as i64 * 120;
        let messages: Vec<_> = half
            .iter()
            .enumerate()
            .map(|(position, line)| at(0, first + position as i64, T0, line.as_bytes()))
            .collect();
        let folded = fold(&plan, &held, &messages);
        database
            .sink
            .commit(&plan, &held, folded)
            .await
            .expect("committed");
        held = database.sink.offsets(&plan).await.expect("read");
    }
    let (rows, followers, maximum, unknown): (i64, i64, i64, i64) =
        sqlx::query_as("select count(*), sum(follower_count)::bigint, max(follower_count), count(*) filter (where follower_count is null) from pins")
            .fetch_one(&database.pool)
            .await
            .expect("a row");
    assert_eq!(
        (rows, followers, maximum, unknown),
        (200, 70_087_971, 8_000_000, 3)
    );
    assert_eq!(
        database
            .count("select count(*) from pins where tag_list is null")
            .await,
        6
    );
    assert_eq!(
        database
            .count("select count(*) from pins where cardinality(tag_list) = 9")
            .await,
        194
    );
    assert_eq!(
        database
            .count("select sum(events)::bigint from window_count")
            .await,
        240,
        "windows count events"
    );
    assert_eq!(
        database
            .count("select count(distinct group_key) from window_count")
            .await,
        13
    );
    assert_eq!(
        database
            .count("select events from stream_offset where partition = 0")
            .await,
        240
    );
}

#[tokio::test]
async fn only_a_later_offset_replaces_a_post() {
    let database = Database::open().await;
    let plan = plan();
    let held = take(&database, "a", 2).await;
    let title = "select title from pins";
    let (newest, newer, older) = (
        titled(1, "newest"),
        titled(1, "newer"),
        titled(1, "older, elsewhere"),
    );
    let folded = fold(&plan, &held, &[at(0, 0, T0, &newer)]);
    database
        .sink
        .commit(&plan, &held, folded)
        .await
        .expect("committed");
    let held = database.sink.offsets(&plan).await.expect("read");
    // Another partition, an earlier time: a key that moved when the topic got more partitions.
    let folded = fold(&plan, &held, &[at(1, 0, T0 - MINUTE, &older)]);
    database
        .sink
        .commit(&plan, &held, folded)
        .await
        .expect("committed");
    let kept: String = sqlx::query_scalar(title)
        .fetch_one(&database.pool)
        .await
        .expect("one row");
    assert_eq!(kept, "newer");
    // The same partition, a later offset with an earlier time.
    let held = database.sink.offsets(&plan).await.expect("read");
    let folded = fold(&plan, &held, &[at(0, 1, T0 - MINUTE, &newest)]);
    database
        .sink
        .commit(&plan, &held, folded)
        .await
        .expect("committed");
    let kept: String = sqlx::query_scalar(title)
        .fetch_one(&database.pool)
        .await
        .expect("one row");
    assert_eq!(kept, "newest");
}

#[tokio::test]
async fn a_second_worker_fences_the_first() {
    let database = Database::open().await;
    let plan = plan();
    let first = take(&database, "first", 2).await;
    let (one, two) = (titled(1, "one"), titled(2, "two"));
    let batch = [
        at(0, 0, T0, &one),
        at(1, 0, T0, &two),
        at(1, 1, T0, b"oops"),
    ];
    let of_first = fold(&plan, &first, &batch);
    let second = take(&database, "second", 2).await;
    assert!(
        second
            .values()
            .all(|held| held.generation == 2 && held.next_offset == 0)
    );
    assert!(matches!(
        database.sink.commit(&plan, &first, of_first).await,
        Err(NotCommitted::Guarded)
    ));
    for table in [
        "select count(*) from pins",
        "select count(*) from window_count",
        "select count(*) from dead_letter",
    ] {
        assert_eq!(
            database.count(table).await,
            0,
            "{table}: a fenced worker writes nothing"
        );
    }
    let of_second = fold(&plan, &second, &batch);
    database
        .sink
        .commit(&plan, &second, of_second)
        .await
        .expect("the owner commits");
    assert_eq!(database.count("select count(*) from pins").await, 2);
    assert_eq!(database.count("select count(*) from dead_letter").await, 1);
}

#[tokio::test]
async fn of_two_commits_of_the_same_offsets_exactly_one_counts() {
    let database = Database::open().await;
    let plan = plan();
    for round in 0..10 {
        let held = if round == 0 {
            take(&database, "a", 1).await
        } else {
            database.sink.offsets(&plan).await.expect("read")
        };
        let from = held[&0].next_offset;
        let line = titled(1, "again");
        let both: Vec<_> = (0..2)
            .map(|_| fold(&plan, &held, &[at(0, from, T0, &line)]))
            .collect();
        let mut results = Vec::new();
        let mut both = both.into_iter();
        let (left, right) = (both.next().expect("two"), both.next().expect("two"));
        let (left, right) = tokio::join!(
            database.sink.commit(&plan, &held, left),
            database.sink.commit(&plan, &held, right)
        );
        results.extend([left, right]);
        assert_eq!(
            results.iter().filter(|result| result.is_ok()).count(),
            1,
            "{results:?}"
        );
        assert!(
            results
                .iter()
                .any(|result| matches!(result, Err(NotCommitted::Guarded))),
            "{results:?}"
        );
    }
    assert_eq!(
        database
            .count("select sum(events)::bigint from window_count")
            .await,
        10
    );
    assert_eq!(
        database
            .count("select next_offset from stream_offset")
            .await,
        10
    );
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_again_and_not_repeated() {
    let database = Database::open().await;
    let plan = plan();
    let held = take(&database, "a", 1).await;
    let line = titled(1, "once");
    let batch = [at(0, 0, T0, &line)];
    database
        .sink
        .commit(&plan, &held, fold(&plan, &held, &batch))
        .await
        .expect("committed, and the answer is lost");
    assert!(matches!(
        database
            .sink
            .commit(&plan, &held, fold(&plan, &held, &batch))
            .await,
        Err(NotCommitted::Guarded)
    ));
    let stands = database.sink.offsets(&plan).await.expect("read");
    assert_eq!(
        (stands[&0].generation, stands[&0].next_offset),
        (1, 1),
        "the generation says that it was this worker"
    );
    assert_eq!(
        database
            .count("select sum(events)::bigint from window_count")
            .await,
        1
    );
}

#[tokio::test]
async fn hostile_values_arrive_as_they_are() {
    let database = Database::open().await;
    let plan = plan();
    let held = take(&database, "a", 1).await;
    let mut pin = pin(1);
    let title = "'; drop table pins; -- \"quoted\" \\ {a,b} NULL 日本 é";
    pin.insert("title".to_owned(), json!(title));
    pin.insert(
        "tag_list".to_owned(),
        json!("{a}, \"b\" ,c\\d,NULL,é,f,g,h,i"),
    );
    pin.insert("poster_name".to_owned(), json!("\\u0000 \"é\""));
    let value = serde_json::to_vec(&pin).expect("serialises");
    let dead = b"\xff\x00\xfe";
    let with_nul = titled(2, "a\0b");
    let messages = [
        at(0, 0, T0, &value),
        at(0, 1, T0, dead),
        at(0, 2, i64::MAX, &value),
        at(0, 3, -5, &value),
        at(0, 4, T0, &with_nul),
    ];
    let folded = fold(&plan, &held, &messages);
    assert_eq!(folded.dead.len(), 2, "{:?}", folded.dead);
    database
        .sink
        .commit(&plan, &held, folded)
        .await
        .expect("committed");
    let (kept, tags): (String, Vec<String>) = sqlx::query_as("select title, tag_list from pins")
        .fetch_one(&database.pool)
        .await
        .expect("one row");
    assert_eq!(kept, title);
    assert_eq!(tags.len(), 9);
    assert_eq!(tags[3], "NULL");
    let raw: Vec<u8> = sqlx::query_scalar("select raw from dead_letter where \"offset\" = 1")
        .fetch_one(&database.pool)
        .await
        .expect("one row");
    assert_eq!(raw, dead);
}

#[tokio::test]
async fn a_gap_is_skipped_once_and_recorded() {
    let database = Database::open().await;
    let plan = plan();
    let held = take(&database, "a", 1).await;
    assert!(
        database
            .sink
            .skip_gap(&plan, 0, held[&0], 17)
            .await
            .expect("moved")
    );
    assert!(
        !database
            .sink
            .skip_gap(&plan, 0, held[&0], 17)
            .await
            .expect("not moved again")
    );
    assert_eq!(
        database.sink.offsets(&plan).await.expect("read")[&0].next_offset,
        17
    );
    assert_eq!(
        database
            .count("select to_offset - from_offset from stream_gap")
            .await,
        17
    );
}

#[tokio::test]
async fn preparing_twice_and_at_once_is_harmless() {
    let database = Database::open().await;
    let plan = plan();
    sqlx::query("drop schema live cascade")
        .execute(&database.pool)
        .await
        .expect("dropped");
    let (first, second) = tokio::join!(database.sink.prepare(&plan), database.sink.prepare(&plan));
    first.expect("prepared");
    second.expect("prepared");
    sqlx::query("alter table pins drop column title")
        .execute(&database.pool)
        .await
        .expect("dropped");
    database
        .sink
        .prepare(&plan)
        .await
        .expect("a column of a newer dataset is added");
    assert_eq!(database.count("select count(*) from pg_attribute where attrelid = 'pins'::regclass and attname = 'title'").await, 1);
}

#[tokio::test]
async fn readers_see_rows_dead_letters_windows_and_whether_it_caught_up() {
    let database = Database::open().await;
    let plan = plan();
    assert!(
        live::streams(&database.pool)
            .await
            .expect("none yet")
            .is_empty()
    );
    let held = take(&database, "a", 2).await;
    let line = titled(1, "one");
    let folded = fold(&plan, &held, &[at(0, 0, T0, &line), at(0, 1, T0, b"oops")]);
    database
        .sink
        .commit(&plan, &held, folded)
        .await
        .expect("committed");
    let status = super::Status {
        state: super::State::Running,
        ..super::Status::default()
    };
    database
        .sink
        .write_status(&plan, "a", &status)
        .await
        .expect("written");
    let summary = live::summary(&database.pool).await.expect("read");
    assert_eq!(
        (
            summary.len(),
            summary[0].rows,
            summary[0].stream.events,
            summary[0].stream.dead_letters
        ),
        (1, 1, 2, 1)
    );
    assert_eq!(summary[0].stream.state, "running");
    assert_eq!(summary[0].stream.partitions.len(), 2);
    let dead = live::dead_letters(&database.pool, "pins", 10)
        .await
        .expect("read");
    assert_eq!(
        (
            dead[0].offset,
            dead[0].rule.as_str(),
            dead[0].raw.as_deref()
        ),
        (1, "not_json", Some(&b"oops"[..]))
    );
    let windows = live::windows(&database.pool, "pins", 1)
        .await
        .expect("read");
    assert_eq!(
        (
            windows.len(),
            windows[0].events,
            windows[0].followed_sum.as_str()
        ),
        (1, 1, "124000")
    );
    let caught_up = async |ends: &[(i32, i64)]| {
        live::is_caught_up(
            &database.pool,
            "pins",
            "pins",
            &ends.iter().copied().collect(),
        )
        .await
        .expect("read")
    };
    assert!(caught_up(&[(0, 2), (1, 0)]).await);
    assert!(!caught_up(&[(0, 3)]).await);
    assert!(!caught_up(&[(2, 1)]).await);
}
