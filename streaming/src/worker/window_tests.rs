//! Windows against a plain computation: what the fold and the views of Postgres say of random events must be what counting
//! them one by one says.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde_json::json;

use super::{
    fold::{Counts, Message},
    plan::Plan,
    sink::Held,
    tests::{Database, MINUTE, T0, at, fold, folder, fresh, pin, plan_of, titled},
};
use crate::live;

const LATE_DEAD: &str = r#"
[stream]
id = "pins"
topic = "pins"
dataset = "pins"
lateness = "1m"

[sinks.posts]
table = "pins"

[windows.strict]
every = "2m"
slide = "1m"
by = "category"
late = "dead_letter"
allowed_lateness = "1m"
"#;

fn counts(folded: &super::Folded, start: i64) -> Option<&Counts> {
    folded
        .windows
        .iter()
        .find(|((_, pane, _), _)| *pane == start)
        .map(|(_, counts)| counts)
}

#[test]
fn a_late_event_is_left_out_only_when_every_window_that_holds_it_has_closed_for_good() {
    let plan = plan_of(LATE_DEAD);
    let mut folder = folder(&plan, &fresh(1));
    let now = T0 + 60 * MINUTE;
    // The watermark stands at T0 + 10.
    folder.add(at(0, 0, T0 + 11 * MINUTE, &titled(1, "newest")), now);
    // Its pane is 8 to 9, its last window 8 to 10, which may be late until 11: counted, and late.
    folder.add(at(0, 1, T0 + 8 * MINUTE, &titled(2, "late")), now);
    // Its last window ends at 9, and with the minute that is allowed at the watermark: left out.
    folder.add(
        at(0, 2, T0 + 7 * MINUTE + 59_999, &titled(3, "too late")),
        now,
    );
    // Its pane has not ended.
    folder.add(at(0, 3, T0 + 10 * MINUTE, &titled(4, "on time")), now);
    let folded = folder.take();
    let advance = &folded.advances[&0];
    assert_eq!((advance.events, advance.late, advance.dropped), (4, 2, 1));
    assert_eq!(counts(&folded, T0 + 8 * MINUTE).expect("counted").late, 1);
    assert_eq!(counts(&folded, T0 + 7 * MINUTE), None);
    assert_eq!(counts(&folded, T0 + 10 * MINUTE).expect("counted").late, 0);
    assert_eq!(folded.dead.len(), 1);
    let letter = &folded.dead[0];
    assert_eq!(
        (letter.offset, letter.stage, letter.rule.as_str()),
        (2, "late", "late:strict")
    );
    assert_eq!(letter.raw.as_deref(), Some(&*titled(3, "too late")));
    assert_eq!(folded.posts.len(), 4, "a post is kept however late");
}

#[test]
fn a_window_without_groups_counts_what_cannot_be_read() {
    let plan = plan_of(
        r#"
[stream]
id = "pins"
topic = "pins"
dataset = "pins"

[windows.error_rate]
every = "2m"
slide = "1m"

[windows.per_category]
every = "1m"
by = "category"
"#,
    );
    let mut folder = folder(&plan, &fresh(1));
    folder.add(at(0, 0, T0, &titled(1, "fine")), T0);
    folder.add(at(0, 1, T0, b"oops"), T0);
    folder.add(at(0, 2, T0 + 1, b"{}"), T0);
    let folded = folder.take();
    let all = &folded.windows[&(0, T0, String::new())];
    assert_eq!((all.events, all.dead), (1, 2));
    assert_eq!(folded.windows.len(), 2, "a rejected message has no group");
    assert!(folded.posts.is_empty(), "the stream keeps windows alone");
}

#[test]
fn the_time_of_an_event_may_be_a_column() {
    let text = LATE_DEAD.replacen("lateness = ", "event_time = \"index\"\nlateness = ", 1);
    let plan = plan_of(&text);
    let mut folder = folder(&plan, &fresh(1));
    let now = T0 + 60 * MINUTE;
    let mut timed = pin(1);
    timed.insert("index".to_owned(), json!(T0 + 5 * MINUTE));
    let timed = serde_json::to_vec(&timed).expect("serialises");
    folder.add(at(0, 0, T0 + 30 * MINUTE, &timed), now);
    // A message that cannot be read has no column: it moves no watermark.
    folder.add(at(0, 1, T0 + 50 * MINUTE, b"oops"), now);
    let folded = folder.take();
    assert!(counts(&folded, T0 + 5 * MINUTE).is_some());
    assert_eq!(folded.advances[&0].watermark_ms, Some(T0 + 4 * MINUTE));
}

#[test]
fn offsets_without_messages_are_passed_and_never_back() {
    let plan = plan_of(LATE_DEAD);
    let mut folder = folder(&plan, &fresh(2));
    folder.add(at(0, 0, T0, &titled(1, "one")), T0);
    folder.reach(0, 3);
    folder.reach(0, 2);
    folder.reach(1, 4);
    folder.reach(7, 4);
    let folded = folder.take();
    assert_eq!(
        (folded.advances[&0].next_offset, folded.advances[&0].events),
        (3, 1)
    );
    let passed = &folded.advances[&1];
    assert_eq!(
        (passed.from_offset, passed.next_offset, passed.events),
        (0, 4, 0)
    );
    assert!(!folded.advances.contains_key(&7));
    assert!(folder.is_empty());
}

/// A generator of numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn between(&mut self, from: i64, to: i64) -> i64 {
        from + self.below((to - from).unsigned_abs()) as i64
    }
}

/// One random message.
#[derive(Clone)]
struct Sample {
    partition: i32,
    offset: i64,
    time: i64,
    category: &'static str,
    followers: Option<i64>,
    /// NULL where the message is broken.
    value: Vec<u8>,
    is_broken: bool,
}

const CATEGORIES: [&str; 4] = ["art", "beauty", "finance", "travel"];

/// Random messages of three partitions: times that wander forward, jump back and forth, and now and then nonsense.
fn samples(random: &mut Random, number: usize) -> Vec<Sample> {
    let mut samples = Vec::with_capacity(number);
    let mut offsets = [0_i64; 3];
    let mut clock = T0;
    for row in 0..number {
        clock += random.between(0, 4_000);
        let partition = random.below(3) as usize;
        let time = match random.below(10) {
            0 => clock - random.between(0, 20 * MINUTE),
            1..4 => clock - random.between(0, 2 * MINUTE),
            _ => clock,
        };
        // Offsets are not dense.
        offsets[partition] += random.between(1, 3);
        let category = CATEGORIES[random.below(4) as usize];
        let followers = (random.below(5) > 0).then(|| random.between(0, 1_000_000));
        let is_broken = random.below(12) == 0;
        let mut pin = pin(1);
        pin.insert(
            "unique_id".to_owned(),
            json!(format!("00000000-0000-4000-8000-{row:012}")),
        );
        pin.insert("category".to_owned(), json!(category));
        let text = followers.map_or("User Info Error".to_owned(), |number| number.to_string());
        pin.insert("follower_count".to_owned(), json!(text));
        let value = if is_broken {
            b"broken".to_vec()
        } else {
            serde_json::to_vec(&pin).expect("serialises")
        };
        samples.push(Sample {
            partition: partition as i32,
            offset: offsets[partition] - 1,
            time,
            category,
            followers,
            value,
            is_broken,
        });
    }
    samples
}

#[derive(Clone, Copy)]
struct Spec {
    name: &'static str,
    length: i64,
    slide: i64,
    is_grouped: bool,
    allowed: Option<i64>,
}

const SPECS: [Spec; 4] = [
    Spec {
        name: "all_kept",
        length: MINUTE,
        slide: MINUTE,
        is_grouped: true,
        allowed: None,
    },
    Spec {
        name: "error_rate",
        length: 2 * MINUTE,
        slide: MINUTE,
        is_grouped: false,
        allowed: None,
    },
    Spec {
        name: "sliding_dropped",
        length: 5 * MINUTE,
        slide: MINUTE,
        is_grouped: true,
        allowed: Some(MINUTE),
    },
    Spec {
        name: "tumbling_dropped",
        length: 3 * MINUTE,
        slide: 3 * MINUTE,
        is_grouped: true,
        allowed: Some(0),
    },
];

const LAST: usize = 150;

const RANDOM_STREAM: &str = r#"
[stream]
id = "pins"
topic = "pins"
dataset = "pins"
lateness = "90s"

[windows.all_kept]
every = "1m"
by = "category"
follow = "follower_count"

[windows.error_rate]
every = "2m"
slide = "1m"

[windows.sliding_dropped]
every = "5m"
slide = "1m"
by = "category"
follow = "follower_count"
late = "drop"
allowed_lateness = "1m"

[windows.tumbling_dropped]
every = "3m"
by = "category"
follow = "follower_count"
late = "drop"

[windows.top]
last = 150
by = "category"
"#;

/// What one window says of one group.
#[derive(Debug, Default, Clone, PartialEq)]
struct Said {
    events: i64,
    dead: i64,
    followed: i64,
    sum: i64,
    max: Option<i64>,
}

/// A row of the view.
#[derive(sqlx::FromRow)]
struct ResultRow {
    window_name: String,
    window_start: DateTime<Utc>,
    window_end: DateTime<Utc>,
    group_key: String,
    events: i64,
    dead: i64,
    followed: i64,
    followed_sum: i64,
    followed_max: Option<i64>,
}

type Windows = BTreeMap<(String, i64, String), Said>;

/// Counts every message in every window that holds it, one by one.
fn plainly(samples: &[Sample]) -> (Windows, i64) {
    let mut windows = Windows::new();
    let mut newest: BTreeMap<i32, i64> = BTreeMap::new();
    let mut dropped = 0;
    for sample in samples {
        let watermark = newest.get(&sample.partition).map(|newest| newest - 90_000);
        let mut is_dropped = false;
        for spec in SPECS {
            if sample.is_broken && spec.is_grouped {
                continue;
            }
            let last_start = sample.time.div_euclid(spec.slide) * spec.slide;
            let starts: Vec<i64> = (0..spec.length / spec.slide)
                .map(|back| last_start - back * spec.slide)
                .collect();
            assert!(
                starts
                    .iter()
                    .all(|start| (*start..*start + spec.length).contains(&sample.time))
            );
            if let (Some(watermark), Some(allowed)) = (watermark, spec.allowed)
                && starts
                    .iter()
                    .all(|start| start + spec.length + allowed <= watermark)
            {
                is_dropped = true;
                continue;
            }
            for start in starts {
                let group = if spec.is_grouped { sample.category } else { "" };
                let said = windows
                    .entry((spec.name.to_owned(), start, group.to_owned()))
                    .or_default();
                if sample.is_broken {
                    said.dead += 1;
                    continue;
                }
                said.events += 1;
                if let (Some(followers), true) = (sample.followers, spec.is_grouped) {
                    said.followed += 1;
                    said.sum += followers;
                    said.max = said.max.max(Some(followers));
                }
            }
        }
        dropped += i64::from(is_dropped);
        let newest = newest.entry(sample.partition).or_insert(sample.time);
        *newest = (*newest).max(sample.time);
    }
    (windows, dropped)
}

/// The last events by the newest time of their partition when they came.
fn last_plainly(samples: &[Sample]) -> BTreeMap<String, i64> {
    let mut newest: BTreeMap<i32, i64> = BTreeMap::new();
    let mut events = Vec::new();
    for sample in samples {
        let newest = newest.entry(sample.partition).or_insert(sample.time);
        *newest = (*newest).max(sample.time);
        if !sample.is_broken {
            events.push((*newest, -sample.partition, sample.offset, sample.category));
        }
    }
    events.sort_unstable();
    let mut counts = BTreeMap::new();
    for (.., category) in events.iter().rev().take(LAST) {
        *counts.entry((*category).to_owned()).or_default() += 1;
    }
    counts
}

async fn commit_in_random_batches(
    database: &Database,
    plan: &Arc<Plan>,
    random: &mut Random,
    samples: &[Sample],
) {
    let found = (0..3).map(|partition| (partition, 0)).collect();
    let mut held = database.sink.take(plan, "a", &found).await.expect("taken");
    // Partitions are independent: each is read in its own order, in batches that begin and end anywhere.
    let mut queues: BTreeMap<i32, VecDeque<&Sample>> = BTreeMap::new();
    for sample in samples {
        queues
            .entry(sample.partition)
            .or_default()
            .push_back(sample);
    }
    while queues.values().any(|queue| !queue.is_empty()) {
        let mut batch = Vec::new();
        for _ in 0..random.between(1, 120) {
            let partition = random.below(3) as i32;
            if let Some(sample) = queues.get_mut(&partition).and_then(VecDeque::pop_front) {
                batch.push(at(
                    sample.partition,
                    sample.offset,
                    sample.time,
                    &sample.value,
                ));
            }
        }
        let mut folder = folder(plan, &held);
        for message in batch {
            folder.add(message, T0 + 1_000 * MINUTE);
        }
        if folder.is_empty() {
            continue;
        }
        database
            .sink
            .commit(plan, &held, folder.take())
            .await
            .expect("committed");
        held = database.sink.offsets(plan).await.expect("read");
        if random.below(5) == 0 {
            // Another worker takes over, and knows only what Postgres knows.
            held = database.sink.take(plan, "b", &found).await.expect("taken");
        }
    }
}

#[tokio::test]
async fn random_events_are_counted_as_a_plain_computation_counts_them() {
    for seed in 0..4 {
        let plan = plan_of(RANDOM_STREAM);
        let database = Database::open_for(&plan).await;
        let mut random = Random(seed);
        let samples = samples(&mut random, 700);
        commit_in_random_batches(&database, &plan, &mut random, &samples).await;

        let (expected, dropped) = plainly(&samples);
        let rows: Vec<ResultRow> = sqlx::query_as(
            "select window_name, window_start, window_end, group_key, events, dead, followed, followed_sum::bigint, followed_max
             from window_result",
        )
        .fetch_all(&database.pool)
        .await
        .expect("read");
        let mut found = Windows::new();
        for row in rows {
            let spec = SPECS
                .iter()
                .find(|spec| spec.name == row.window_name)
                .expect("a window of ours");
            let length = row.window_end - row.window_start;
            assert_eq!(length.num_milliseconds(), spec.length);
            let said = Said {
                events: row.events,
                dead: row.dead,
                followed: row.followed,
                sum: row.followed_sum,
                max: row.followed_max,
            };
            let start = row.window_start.timestamp_millis();
            found.insert((row.window_name, start, row.group_key), said);
        }
        assert_eq!(found, expected, "seed {seed}");
        assert!(dropped > 10, "the test tests: {dropped} dropped");
        assert_eq!(
            database
                .count("select sum(dropped)::bigint from stream_offset")
                .await,
            dropped,
            "seed {seed}"
        );

        let top = live::top(&database.pool, "pins", 100).await.expect("read");
        let counted: BTreeMap<String, i64> = top
            .iter()
            .map(|row| (row.group_key.clone(), row.events))
            .collect();
        assert_eq!(counted, last_plainly(&samples), "seed {seed}");
        assert!(top.windows(2).all(|pair| pair[0].place <= pair[1].place));

        // The page's query says the same of the newest windows as the view.
        let newest = live::windows(&database.pool, "pins", 3)
            .await
            .expect("read");
        let names: BTreeSet<_> = newest.iter().map(|row| row.window_name.as_str()).collect();
        assert_eq!(names.len(), SPECS.len());
        for row in &newest {
            let place = (
                row.window_name.clone(),
                row.window_start.timestamp_millis(),
                row.group_key.clone(),
            );
            let said = &found[&place];
            assert_eq!(
                (said.events, said.dead, said.max),
                (row.events, row.dead, row.followed_max)
            );
            let of_window: i64 = found
                .iter()
                .filter(|((name, start, _), _)| (name, *start) == (&place.0, place.1))
                .map(|(_, said)| said.events)
                .sum();
            let share = row.share.unwrap_or_default();
            assert!((share - said.events as f64 / of_window.max(1) as f64).abs() < 1e-9);
        }
    }
}

#[tokio::test]
async fn a_window_whose_slide_changed_must_have_another_name() {
    let plan = plan_of(LATE_DEAD);
    let database = Database::open_for(&plan).await;
    let changed = plan_of(&LATE_DEAD.replace("slide = \"1m\"", "slide = \"2m\""));
    assert_eq!(
        database.sink.prepare(&changed).await.expect("read"),
        None,
        "nothing is kept yet"
    );
    database.sink.prepare(&plan).await.expect("back");
    let found = BTreeMap::from([(0, 0)]);
    let held = database.sink.take(&plan, "a", &found).await.expect("taken");
    let line = titled(1, "one");
    let folded = fold(&plan, &held, &[at(0, 0, T0, &line)]);
    database
        .sink
        .commit(&plan, &held, folded)
        .await
        .expect("committed");
    assert_eq!(
        database.sink.prepare(&changed).await.expect("read"),
        Some("strict".to_owned())
    );
    let longer = plan_of(&LATE_DEAD.replace("every = \"2m\"", "every = \"4m\""));
    assert_eq!(database.sink.prepare(&longer).await.expect("read"), None);
    assert_eq!(
        database
            .count("select count(*) from window_result where window_end - window_start = interval '4 minutes'")
            .await,
        4,
        "a sliding window is the sum of its panes, whatever its length"
    );
}

#[tokio::test]
async fn an_idle_partition_holds_no_window_open() {
    let plan = plan_of(LATE_DEAD);
    let database = Database::open_for(&plan).await;
    let found = BTreeMap::from([(0, 0), (1, 0)]);
    let held = database.sink.take(&plan, "a", &found).await.expect("taken");
    let (one, two) = (titled(1, "one"), titled(2, "two"));
    let messages: [Message<'_>; 2] = [at(0, 0, T0, &one), at(1, 0, T0 + 30 * MINUTE, &two)];
    let mut folder = folder(&plan, &held);
    for message in messages {
        folder.add(message, T0 + 60 * MINUTE);
    }
    database
        .sink
        .commit(&plan, &held, folder.take())
        .await
        .expect("committed");
    let is_final = "select count(*) from window_result where is_final";
    assert_eq!(database.count(is_final).await, 0);
    let held = database.sink.offsets(&plan).await.expect("read");
    let moved = BTreeMap::from([(
        0,
        Held {
            next_offset: held[&0].next_offset + 1,
            ..held[&0]
        },
    )]);
    database
        .sink
        .mark_idle(&plan, &moved)
        .await
        .expect("no row");
    assert_eq!(database.count(is_final).await, 0, "it stands elsewhere");
    let quiet = BTreeMap::from([(0, held[&0])]);
    database
        .sink
        .mark_idle(&plan, &quiet)
        .await
        .expect("marked");
    assert_eq!(database.count(is_final).await, 2);
    let folded = fold(&plan, &held, &[at(0, 1, T0, &one)]);
    database
        .sink
        .commit(&plan, &held, folded)
        .await
        .expect("committed");
    assert_eq!(
        database.count(is_final).await,
        0,
        "it holds them open again"
    );
}

/// Prints how many events of the real pins one core cleans and counts in a second; `docs/PERFORMANCE.md` says how to run it.
#[cfg(feature = "real-services")]
#[test]
fn one_core_cleans_and_counts() {
    const EVENTS: i64 = 400_000;
    let plan = plan_of(
        r#"
[stream]
id = "pins"
topic = "pins"
dataset = "pins"
lateness = "1m"

[windows.posts_per_category]
every = "1m"
by = "category"
follow = "follower_count"

[windows.media_shares]
every = "1m"
by = "is_image_or_video"

[windows.error_rate]
every = "2m"
slide = "1m"

[windows.followers_per_category]
every = "30m"
by = "category"
follow = "follower_count"
"#,
    );
    let lines: Vec<&str> = include_str!("../../../data/pins.ndjson").lines().collect();
    let mut folder = folder(&plan, &fresh(4));
    let began = std::time::Instant::now();
    let mut counted = 0;
    for event in 0..EVENTS {
        let line = lines[event as usize % lines.len()];
        let time = T0 + event / 10;
        folder.add(
            at((event % 4) as i32, event / 4, time, line.as_bytes()),
            time,
        );
        if event % 5_000 == 4_999 {
            counted += folder
                .take()
                .windows
                .values()
                .map(|counts| counts.events)
                .sum::<i64>();
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(counted, 4 * EVENTS);
    println!("{:.0} events/s", EVENTS as f64 / seconds);
}
