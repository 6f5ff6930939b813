//! Runs that the schedule makes: one for each logical date however many schedulers there are and whenever they look, none
//! for the past after an edit, and what becomes of ticks that come due while a DAG has no room.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use futures::future::join_all;
use proptest::{
    prelude::{Strategy, any, prop},
    prop_oneof,
    strategy::{Just, ValueTree},
    test_runner::TestRunner,
};

use super::{calls::LEASE, check_invariants, claim, ended, register, sql, success};
use crate::{
    model::{
        Catchup, Dag, DagId, Overlap, RunState, Schedule, TaskState,
        schedule::{DataInterval, Past},
    },
    store::{FindingKind, RunFilter, RunRow, Store, ToPublish},
    testing::{dag, fresh_store, publish, states},
};

const HOUR: TimeDelta = TimeDelta::hours(1);

/// One schedule of each kind, whose ticks are whole quarters of an hour away from the minutes in which a test runs.
fn schedules() -> impl Strategy<Value = (usize, i64)> {
    (0..5usize, 1..5i64)
}

fn schedule((kind, quarters): (usize, i64), anchor: DateTime<Utc>) -> Schedule {
    let quarter = TimeDelta::minutes(15);
    let every = |quarters: i64, anchor| {
        Schedule::parse_every(&format!("{}m", quarters * 15), Some(anchor), Tz::UTC).unwrap()
    };
    let instants = |step: i32| {
        let listed = (-60..200)
            .filter(|number| number % step == 0 || number % 7 == 3)
            .map(|number| anchor + quarter * number)
            .collect();
        Schedule::at_instants(listed, None, Tz::UTC).unwrap()
    };
    match kind {
        0 => every(quarters, anchor),
        1 => every(quarters, anchor + quarter * 3),
        2 => instants(2 + i32::try_from(quarters).unwrap()),
        3 => Schedule::any_of(vec![every(quarters, anchor), every(3, anchor + quarter)]).unwrap(),
        _ => Schedule::any_of(vec![every(2 * quarters, anchor), instants(5)]).unwrap(),
    }
}

/// What happens to a DAG: so many minutes pass; perhaps everything was down meanwhile; perhaps its file is edited then.
#[derive(Debug, Clone)]
struct Step {
    minutes: i64,
    was_down: bool,
    edit: Option<(usize, i64)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (
        1..400i64,
        prop::bool::weighted(0.2),
        prop::option::weighted(0.2, schedules()),
    )
        .prop_map(|(minutes, was_down, edit)| Step {
            minutes,
            was_down,
            edit,
        });
    prop::collection::vec(step, 3..9)
}

/// Random schedules, edits, stops and times at which three schedulers look at once.
#[tokio::test]
async fn each_logical_date_has_exactly_one_run_whatever_happens_and_whoever_looks() {
    let (store, url) = fresh_store().await;
    let schedulers = several(&url, 3).await;
    let mut runner = TestRunner::deterministic();
    let catchup = prop_oneof![
        Just(Catchup::All),
        Just(Catchup::All),
        Just(Catchup::Latest),
        Just(Catchup::None)
    ];
    let story = (
        schedules(),
        steps(),
        catchup,
        prop::option::of(1..3000u64),
        any::<bool>(),
    );
    let mut made_at_all = 0;
    for number in 0..24 {
        // A story begins where no other one has been: the watch of a scheduler never goes back.
        let begin = TimeDelta::days(100 * number);
        let (kind, steps, catchup, jitter, has_past) =
            story.new_tree(&mut runner).unwrap().current();
        let anchor = DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap() + begin
            - TimeDelta::minutes(7);
        let mut told = dag(&format!("story_{number}"), &[("a", &[])]);
        told.schedule = Some(schedule(kind, anchor));
        told.catchup = catchup;
        told.jitter = jitter.map(Duration::from_secs);
        told.start = has_past.then(|| anchor - HOUR * 5);
        store.begin_watch(LEASE, begin).await.unwrap();
        publish_at(&store, &told, begin).await;
        let mut shift = begin;
        let mut edited_at = None;
        let mut made = Vec::new();
        for step in &steps {
            shift += TimeDelta::minutes(step.minutes);
            if step.was_down {
                store.begin_watch(LEASE, shift).await.unwrap();
            } else {
                store.extend_watch(LEASE, shift).await.unwrap();
            }
            loop {
                let passes = schedulers.iter().map(|one| one.schedule_due(shift));
                for pass in join_all(passes).await {
                    pass.unwrap();
                }
                let next = store.dag(&told.id).await.unwrap().unwrap().next_fire_at;
                if next.is_none_or(|next| next > Utc::now() + shift) {
                    break;
                }
            }
            let now = intervals(&store, &told.id).await;
            assert!(
                now.starts_with(&made),
                "nothing is made for the past: {told:?}"
            );
            let new = &now[made.len()..];
            if let Some(edited_at) = edited_at.take() {
                assert!(
                    new.iter().all(|interval| interval.end > edited_at),
                    "an edit fires for nothing: {new:?} {told:?}"
                );
            } else if told.catchup == Catchup::All && step.edit.is_none() {
                assert_contiguous(&told, &made, new);
            }
            made = now;
            if let Some(kind) = step.edit {
                told.schedule = Some(schedule(kind, anchor));
                edited_at = Some(Utc::now() + shift);
                publish_at(&store, &told, shift).await;
            }
        }
        for pair in made.windows(2) {
            assert!(
                pair[0].end <= pair[1].start,
                "no data is worked on twice: {pair:?} {told:?}"
            );
        }
        if told.catchup == Catchup::All && steps.iter().all(|step| step.edit.is_none()) {
            let since = told.start.unwrap_or(anchor + TimeDelta::minutes(7));
            let past = Past {
                last_tick: None,
                since,
                watched_since: since,
            };
            let due = told
                .timetable()
                .unwrap()
                .due(&past, Utc::now() + shift, 10_000);
            assert!(due.intervals.starts_with(&made), "{told:?}");
            // A tick may have come between the last look and this one.
            assert!(due.intervals.len() - made.len() <= 1, "{told:?}");
        }
        made_at_all += made.len();
        sql(
            &store,
            format!("update dag set paused = true where dag_id = '{}'", told.id),
        )
        .await;
    }
    assert!(made_at_all > 200, "{made_at_all}");
    check_invariants(&store).await;
    assert!(store.check().await.unwrap().findings.is_empty());
}

/// With everything made up for, each run takes up where the one before it ended.
fn assert_contiguous(told: &Dag, made: &[DataInterval], new: &[DataInterval]) {
    let mut last = made.last();
    for interval in new {
        if let Some(last) = last {
            assert_eq!(last.end, interval.start, "a gap: {told:?}");
        }
        last = Some(interval);
    }
}

/// Every way of editing what decides about ticks, with ticks of the past that the new version would have had.
#[tokio::test]
async fn no_edit_fires_for_the_past() {
    let (store, _) = fresh_store().await;
    store.begin_watch(LEASE, TimeDelta::zero()).await.unwrap();
    let now = DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap();
    let half = TimeDelta::minutes(30);
    let every = |minutes: i64, anchor| {
        Schedule::parse_every(&format!("{minutes}m"), Some(anchor), Tz::UTC).unwrap()
    };
    let instants = |numbers: &[i32]| {
        let listed = numbers.iter().map(|number| now + half * *number).collect();
        Schedule::at_instants(listed, None, Tz::UTC).unwrap()
    };
    type Edit = fn(&mut Dag, DateTime<Utc>);
    let edits: [(&str, Schedule, Edit, Schedule); 7] = [
        (
            "removed",
            instants(&[1, 3, 5, 11]),
            |_, _| {},
            instants(&[1, 3, 11]),
        ),
        (
            "added",
            instants(&[1, 5, 11]),
            |_, _| {},
            instants(&[1, 2, 3, 4, 5, 6, 7, 11]),
        ),
        (
            "anchor",
            every(60, now + half),
            |_, _| {},
            every(60, now + half / 2),
        ),
        ("faster", every(60, now + half), |_, _| {}, every(10, now)),
        (
            "end",
            every(60, now + half),
            |dag, now| dag.end = Some(now + TimeDelta::days(300)),
            every(60, now + half),
        ),
        (
            "window",
            every(60, now + half),
            |dag, _| dag.catchup_window = Some(Duration::from_secs(900_000)),
            every(60, now + half),
        ),
        (
            "start",
            every(60, now + half),
            |dag, now| dag.start = Some(now - TimeDelta::days(3)),
            every(60, now + half),
        ),
    ];
    let mut before = Vec::new();
    for (name, schedule, edit, edited) in edits {
        let mut told = dag(name, &[("a", &[])]);
        told.schedule = Some(schedule);
        told.catchup = Catchup::All;
        if name == "end" {
            told.end = Some(now + half);
        }
        if name == "window" {
            told.catchup_window = Some(Duration::from_secs(60));
        }
        publish_at(&store, &told, TimeDelta::zero()).await;
        before.push((told, edit, edited));
    }
    // Until now + 3 h, with everything down in between.
    store.schedule_due(HOUR).await.unwrap();
    store.begin_watch(LEASE, HOUR * 3).await.unwrap();
    store.schedule_due(HOUR * 3).await.unwrap();
    for (told, edit, edited) in &mut before {
        let made = intervals(&store, &told.id).await;
        assert!(!made.is_empty(), "{}", told.id);
        edit(told, now);
        told.schedule = Some(edited.clone());
        // Twice there and back: what is taken away and put back fires no more than what stayed.
        let mut without = told.clone();
        without.schedule = None;
        for version in [&*told, &without, &*told] {
            publish_at(&store, version, HOUR * 3).await;
            store.schedule_due(HOUR * 3).await.unwrap();
        }
        assert_eq!(intervals(&store, &told.id).await, made, "{}", told.id);
    }
    store.extend_watch(LEASE, HOUR * 6).await.unwrap();
    store.schedule_due(HOUR * 6).await.unwrap();
    for (told, _, _) in &before {
        let made = intervals(&store, &told.id).await;
        let new: Vec<_> = made
            .iter()
            .filter(|interval| interval.end > now + HOUR * 3)
            .collect();
        assert!(!new.is_empty(), "{} goes on", told.id);
        for pair in made.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{}: {pair:?}", told.id);
        }
    }
}

#[tokio::test]
async fn what_passed_while_everything_was_down_is_made_up_for_within_the_window() {
    let (store, _) = fresh_store().await;
    store.begin_watch(LEASE, TimeDelta::zero()).await.unwrap();
    let mut made = Vec::new();
    for (name, catchup, window) in [
        ("none", Catchup::None, None),
        ("latest", Catchup::Latest, None),
        ("all", Catchup::All, None),
        ("some", Catchup::All, Some(2)),
        ("late", Catchup::Latest, Some(2)),
    ] {
        let mut told = hourly(name);
        told.catchup = catchup;
        told.catchup_window = window.map(|hours| Duration::from_secs(hours * 3600));
        publish(&store, &told).await;
        made.push(told.id);
    }
    // Ten hours later somebody watches again, and looks two hours after that.
    store.begin_watch(LEASE, HOUR * 10).await.unwrap();
    store.extend_watch(LEASE, HOUR * 12).await.unwrap();
    store.schedule_due(HOUR * 12).await.unwrap();
    let mut counts = Vec::new();
    for id in &made {
        counts.push(intervals(&store, id).await.len());
    }
    assert_eq!(counts, [2, 3, 12, 4, 3]);
}

#[tokio::test]
async fn a_tick_without_room_makes_no_run_where_the_dag_says_skip_and_that_is_on_record() {
    let (store, url) = fresh_store().await;
    store.begin_watch(LEASE, TimeDelta::zero()).await.unwrap();
    let mut told = hourly("skipping");
    told.overlap = Overlap::Skip;
    told.max_active_runs = 1;
    publish(&store, &told).await;
    let schedulers = several(&url, 3).await;
    for hours in 1..=3 {
        store.extend_watch(LEASE, HOUR * hours).await.unwrap();
        let passes = schedulers.iter().map(|one| one.schedule_due(HOUR * hours));
        for pass in join_all(passes).await {
            pass.unwrap();
        }
    }
    let first = intervals(&store, &told.id).await;
    assert_eq!(first.len(), 1, "the others found it running");
    let skipped = store.skipped_ticks(&told.id, 10).await.unwrap();
    assert_eq!(skipped.len(), 1, "one stretch: {skipped:?}");
    assert_eq!(
        (
            skipped[0].ticks,
            skipped[0].first_tick,
            skipped[0].last_tick
        ),
        (2, first[0].end + HOUR, first[0].end + HOUR * 2)
    );
    assert_eq!((skipped[0].open_runs, skipped[0].max_active_runs), (1, 1));

    finish_what_runs(&store).await;
    for hours in 4..=5 {
        store.schedule_due(HOUR * hours).await.unwrap();
    }
    let made = intervals(&store, &told.id).await;
    assert_eq!(made.len(), 2);
    assert_eq!(
        made[1],
        DataInterval {
            start: first[0].end + HOUR * 2,
            end: first[0].end + HOUR * 3,
        },
        "it works on its own hour, not on those that were left out"
    );
    let skipped = store.skipped_ticks(&told.id, 10).await.unwrap();
    assert_eq!(skipped.len(), 2, "another stretch: {skipped:?}");
    // What comes due together takes the room there is.
    finish_what_runs(&store).await;
    told.max_active_runs = 3;
    publish(&store, &told).await;
    store.schedule_due(HOUR * 10).await.unwrap();
    assert_eq!(intervals(&store, &told.id).await.len(), 5);
    let skipped = store.skipped_ticks(&told.id, 10).await.unwrap();
    assert_eq!((skipped[0].ticks, skipped[0].open_runs), (2, 3));
    assert!(store.check().await.unwrap().findings.is_empty());
}

#[tokio::test]
async fn only_the_newest_waiting_run_is_kept_where_the_dag_says_latest() {
    let (store, url) = fresh_store().await;
    store.begin_watch(LEASE, TimeDelta::zero()).await.unwrap();
    let mut told = dag("newest", &[("a", &[]), ("b", &["a"])]);
    told.schedule = hourly("newest").schedule;
    told.overlap = Overlap::Latest;
    told.max_active_runs = 1;
    publish(&store, &told).await;
    let by_hand = crate::testing::trigger;
    let schedulers = several(&url, 3).await;
    store.schedule_due(HOUR).await.unwrap();
    let manual = by_hand(&store, &told).await;
    for hours in 2..=4 {
        let passes = schedulers.iter().map(|one| one.schedule_due(HOUR * hours));
        for pass in join_all(passes).await {
            pass.unwrap();
        }
    }
    let made = runs(&store, &told.id).await;
    let scheduled: Vec<&RunRow> = made.iter().filter(|run| run.run_id != manual).collect();
    let found: Vec<RunState> = scheduled.iter().map(|run| run.state).collect();
    assert_eq!(
        found,
        [
            RunState::Running,
            RunState::Cancelled,
            RunState::Cancelled,
            RunState::Queued
        ]
    );
    let newer = scheduled[2].logical_date.format("%Y-%m-%d %H:%M:%SZ");
    assert_eq!(
        scheduled[1].reason,
        Some(format!(
            "the run of {newer} came due before this one could start (overlap = \"latest\")"
        ))
    );
    assert!(
        states(&store, scheduled[1].run_id)
            .await
            .values()
            .all(|state| *state == TaskState::Cancelled)
    );
    let manual = store.run(manual).await.unwrap().unwrap();
    assert_eq!(manual.state, RunState::Queued, "people's runs are theirs");
    check_invariants(&store).await;
    let findings = store.check().await.unwrap().findings;
    assert!(findings.is_empty(), "{findings:?}");
    // Whoever has waited longest goes on, and the newest after it.
    for _ in 0..4 {
        finish_what_runs(&store).await;
    }
    let newest = store.run(scheduled[3].run_id).await.unwrap().unwrap();
    assert_eq!(newest.state, RunState::Running);
    check_invariants(&store).await;
}

#[tokio::test]
async fn a_schedule_that_has_ended_is_not_looked_for() {
    let (store, _) = fresh_store().await;
    store.begin_watch(LEASE, TimeDelta::zero()).await.unwrap();
    let now = DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap();
    let mut once = dag("once", &[("a", &[])]);
    once.schedule = Some(Schedule::at_instants(vec![now + HOUR / 2], None, Tz::UTC).unwrap());
    publish(&store, &once).await;
    store.schedule_due(HOUR).await.unwrap();
    store.schedule_due(HOUR * 2).await.unwrap();
    let made = intervals(&store, &once.id).await;
    assert_eq!(
        made,
        [DataInterval {
            start: now + HOUR / 2 - TimeDelta::days(1),
            end: now + HOUR / 2,
        }]
    );
    let row = store.dag(&once.id).await.unwrap().unwrap();
    assert_eq!(row.next_fire_at, None);
    assert!(row.upcoming(&once, Utc::now() + HOUR, 5).is_empty());
    let findings = store.check().await.unwrap().findings;
    assert!(
        findings
            .iter()
            .all(|finding| finding.kind != FindingKind::ScheduleMissing),
        "{findings:?}"
    );
}

/// A DAG whose ticks are 25 minutes away from the hours at which a test looks.
fn hourly(id: &str) -> Dag {
    let anchor = DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap();
    let mut made = dag(id, &[("a", &[])]);
    let anchor = anchor - TimeDelta::minutes(25);
    made.schedule = Some(Schedule::parse_every("1h", Some(anchor), Tz::UTC).unwrap());
    made
}

async fn publish_at(store: &Store, dag: &Dag, shift: TimeDelta) {
    let file = format!("{}.toml", dag.id);
    let source = serde_json::to_string(dag).unwrap();
    let dag = Arc::new(dag.clone());
    let file = ToPublish {
        file: &file,
        source: &source,
        dag: &dag,
    };
    store.publish_all(&[file], shift).await.unwrap();
}

async fn several(url: &str, count: usize) -> Vec<Store> {
    let mut stores = Vec::new();
    for _ in 0..count {
        stores.push(Store::connect(url).await.unwrap());
    }
    stores
}

/// Runs every task that may run, once.
async fn finish_what_runs(store: &Store) {
    let worker = register(store, "finisher").await;
    let mut done = Vec::new();
    for claimed in claim(store, worker, 8).await {
        done.push(ended(claimed, success()));
    }
    store.settle(&done).await.unwrap();
}

async fn runs(store: &Store, dag_id: &DagId) -> Vec<RunRow> {
    let mut runs = store
        .runs(&RunFilter {
            dag_id: Some(dag_id.clone()),
            limit: 500,
            ..RunFilter::default()
        })
        .await
        .unwrap();
    runs.sort_by_key(|run| run.run_id);
    runs
}

/// What a DAG's runs work on, in the order in which they were made.
async fn intervals(store: &Store, dag_id: &DagId) -> Vec<DataInterval> {
    runs(store, dag_id)
        .await
        .into_iter()
        .map(|run| DataInterval {
            start: run.data_interval_start,
            end: run.data_interval_end,
        })
        .collect()
}
