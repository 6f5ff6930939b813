//! What is deleted and what stays, against a real Postgres.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    fold::{Folded, Message},
    plan::Plan,
    sink::Held,
    sweep::{Swept, sweep},
    tests::{Database, MINUTE, T0, at, fold, folder, fresh, plan_of, titled},
};

const KEPT: &str = r#"
[stream]
id = "pins"
topic = "pins"
dataset = "pins"

[sinks.posts]
table = "pins"

[sinks.dead_letters]
keep = "2d"

[windows.short]
every = "2m"
slide = "1m"
keep = "10m"

[windows.long]
every = "1m"
keep = "1h"

[windows.always]
every = "1m"
keep = "forever"
"#;

async fn commit(database: &Database, plan: &Plan, held: &mut BTreeMap<i32, Held>, folded: Folded) {
    database
        .sink
        .commit(plan, held, folded)
        .await
        .expect("committed");
    *held = database.sink.offsets(plan).await.expect("read");
}

async fn starts(database: &Database, window: &str) -> Vec<i64> {
    sqlx::query_scalar(
        "select (extract(epoch from window_start - to_timestamp($2::bigint / 1000)) / 60)::bigint \
         from window_count where window_name = $1 order by window_start",
    )
    .bind(window)
    .bind(T0)
    .fetch_all(&database.pool)
    .await
    .expect("minutes")
}

async fn a_quarter_of_an_hour(plan: &Arc<Plan>) -> (Database, BTreeMap<i32, Held>) {
    let database = Database::open_for(plan).await;
    let found = BTreeMap::from([(0, 0)]);
    let mut held = database.sink.take(plan, "a", &found).await.expect("taken");
    let pin = titled(1, "a");
    let messages: Vec<Message<'_>> = (0..16)
        .map(|minute| at(0, minute, T0 + minute * MINUTE, &pin))
        .collect();
    let mut folder = folder(plan, &held);
    for message in messages {
        folder.add(message, T0 + 60 * MINUTE);
    }
    commit(&database, plan, &mut held, folder.take()).await;
    (database, held)
}

#[tokio::test]
async fn a_pane_is_deleted_once_the_last_window_that_holds_it_has_been_kept_for_long_enough() {
    let plan = plan_of(KEPT);
    let (database, _) = a_quarter_of_an_hour(&plan).await;
    let swept = sweep(&database.pool, &plan).await.expect("swept");
    // The watermark is at minute 15: a pane is in windows of two minutes, which are kept for ten.
    assert_eq!(
        swept,
        Swept {
            panes: 3,
            dead_letters: 0
        }
    );
    assert_eq!(
        starts(&database, "short").await,
        (3..16).collect::<Vec<_>>()
    );
    assert_eq!(starts(&database, "long").await, (0..16).collect::<Vec<_>>());
    assert_eq!(
        sweep(&database.pool, &plan).await.expect("swept"),
        Swept::default()
    );
}

#[tokio::test]
async fn an_event_of_a_window_that_is_not_kept_any_more_is_left_out_and_makes_no_pane_anew() {
    let plan = plan_of(KEPT);
    let (database, mut held) = a_quarter_of_an_hour(&plan).await;
    sweep(&database.pool, &plan).await.expect("swept");
    let pin = titled(2, "late");
    let folded = fold(&plan, &held, &[at(0, 16, T0 + 2 * MINUTE, &pin)]);
    let advance = folded.advances[&0].clone();
    assert_eq!((advance.late, advance.dropped), (1, 1));
    commit(&database, &plan, &mut held, folded).await;
    assert_eq!(
        starts(&database, "short").await,
        (3..16).collect::<Vec<_>>()
    );
    assert_eq!(
        database
            .count("select sum(events)::bigint from window_count where window_name = 'always' and events = 2")
            .await,
        2,
        "a window that is kept for ever counts it"
    );
}

#[tokio::test]
async fn windows_whose_names_are_gone_from_the_file_stay() {
    let plan = plan_of(KEPT);
    let (database, _) = a_quarter_of_an_hour(&plan).await;
    sqlx::query(
        "insert into window_count (stream, window_name, window_start, window_end, group_key, events) \
         select 'pins', name, start, start + interval '1 minute', '', 1 \
         from unnest(array['gone', 'other']) as name, \
         unnest(array[to_timestamp($1::bigint / 1000), to_timestamp($1::bigint / 1000) - interval '31 days']) as start",
    )
    .bind(T0)
    .execute(&database.pool)
    .await
    .expect("inserted");
    let swept = sweep(&database.pool, &plan).await.expect("swept");
    assert_eq!(swept.panes, 3);
    for name in ["gone", "other"] {
        assert_eq!(starts(&database, name).await, [-31 * 24 * 60, 0]);
    }
}

#[tokio::test]
async fn dead_letters_are_deleted_by_their_age_and_only_those_of_the_stream() {
    let plan = plan_of(KEPT);
    let database = Database::open_for(&plan).await;
    sqlx::query(
        "insert into dead_letter (stream, topic, partition, \"offset\", stage, rule, detail, recorded_at) \
         select stream, 'pins', 0, number, 'contract', 'a', 'a', now() - make_interval(hours => number) \
         from unnest(array['pins', 'others']) as stream, generate_series(1, 2500) as number",
    )
    .execute(&database.pool)
    .await
    .expect("inserted");
    // More than one transaction deletes.
    let swept = sweep(&database.pool, &plan).await.expect("swept");
    assert_eq!(swept.dead_letters, 2500 - 47);
    assert_eq!(
        database
            .count("select count(*) from dead_letter where stream = 'pins' and recorded_at > now() - interval '2 days'")
            .await,
        47
    );
    assert_eq!(
        database
            .count("select count(*) from dead_letter where stream = 'others'")
            .await,
        2500
    );
}

#[test]
fn a_window_that_is_kept_for_ever_counts_events_of_any_age() {
    let plan = plan_of(KEPT);
    let pin = titled(1, "a");
    let messages = [
        at(0, 0, T0 + 3 * 24 * 60 * MINUTE, &pin),
        at(0, 1, T0, &pin),
    ];
    let mut folder = folder(&plan, &fresh(1));
    for message in messages {
        folder.add(message, T0 + 3 * 24 * 60 * MINUTE);
    }
    let folded = folder.take();
    let always = plan
        .windows
        .iter()
        .position(|window| window.name == "always")
        .expect("a window");
    assert!(folded.windows.contains_key(&(always, T0, String::new())));
    assert_eq!(folded.advances[&0].dropped, 1);
}
