//! Which runs are due.

use chrono::TimeDelta;
use proptest::prelude::*;

use super::*;
use crate::model::Catchup;

fn past(
    catchup: Catchup,
    start: Option<&str>,
    last: Option<&str>,
    since: &str,
    watched_since: &str,
) -> Past {
    Past {
        start: start.map(utc),
        catchup,
        last_logical_date: last.map(utc),
        since: utc(since),
        watched_since: utc(watched_since),
    }
}

fn dates(due: &Due) -> Vec<String> {
    due.intervals
        .iter()
        .map(|interval| interval.logical_date().format("%m-%dT%H").to_string())
        .collect()
}

const NOW: &str = "2026-01-10T12:00:00Z";

#[test]
fn a_new_dag_begins_as_its_catchup_says() {
    let daily = cron("0 0 * * *", "UTC");
    let start = Some("2026-01-06T00:00:00Z");
    let fresh = |catchup| {
        past(
            catchup,
            start,
            None,
            &first_since(start.map(utc), catchup, utc(NOW)).to_rfc3339(),
            NOW,
        )
    };
    let due = |catchup| intervals_due(&daily, &fresh(catchup), utc(NOW), 1000);
    assert_eq!(
        dates(&due(Catchup::All)),
        ["01-06T00", "01-07T00", "01-08T00", "01-09T00"]
    );
    assert_eq!(dates(&due(Catchup::Latest)), ["01-09T00"]);
    assert_eq!(dates(&due(Catchup::None)), [""; 0]);
    for catchup in [Catchup::All, Catchup::Latest, Catchup::None] {
        let next = due(catchup).next.expect("it goes on");
        assert_eq!(
            (next.logical_date(), next.fires_at()),
            (utc("2026-01-10T00:00:00Z"), utc("2026-01-11T00:00:00Z"))
        );
    }
}

#[test]
fn ticks_missed_while_nothing_watched_follow_catchup_and_later_ones_are_made() {
    let hourly = cron("0 * * * *", "UTC");
    let due = |catchup| {
        let past = past(
            catchup,
            None,
            Some("2026-01-10T05:00:00Z"),
            "2026-01-01T00:00:00Z",
            "2026-01-10T09:30:00Z",
        );
        dates(&intervals_due(
            &hourly,
            &past,
            utc("2026-01-10T11:00:00Z"),
            1000,
        ))
    };
    assert_eq!(
        due(Catchup::All),
        ["01-10T06", "01-10T07", "01-10T08", "01-10T09", "01-10T10"]
    );
    assert_eq!(due(Catchup::Latest), ["01-10T08", "01-10T09", "01-10T10"]);
    assert_eq!(due(Catchup::None), ["01-10T09", "01-10T10"]);
}

#[test]
fn an_edited_schedule_does_not_fire_for_the_past() {
    let hourly = cron("0 * * * *", "UTC");
    let edited = past(
        Catchup::All,
        Some("2026-01-01T00:00:00Z"),
        Some("2026-01-08T00:00:00Z"),
        NOW,
        NOW,
    );
    let due = intervals_due(&hourly, &edited, utc(NOW), 1000);
    assert_eq!(dates(&due), [""; 0]);
    assert_eq!(
        due.next.expect("it goes on").fires_at(),
        utc("2026-01-10T13:00:00Z")
    );
}

#[test]
fn the_limit_is_kept_and_the_rest_comes_in_the_next_pass() {
    let minutely = cron("* * * * *", "UTC");
    let start = "2026-01-01T00:00:00Z";
    let mut past = past(Catchup::All, Some(start), None, start, NOW);
    let first = intervals_due(&minutely, &past, utc(NOW), 1000);
    assert_eq!(first.intervals.len(), 1000);
    assert!(first.next.expect("there is more").fires_at() <= utc(NOW));
    past.last_logical_date = first.intervals.last().map(DataInterval::logical_date);
    let second = intervals_due(&minutely, &past, utc(NOW), 1000);
    assert_eq!(second.intervals.first(), first.next.as_ref());
}

#[test]
fn nothing_is_due_before_the_start() {
    let daily = cron("0 0 * * *", "UTC");
    let later = past(Catchup::All, Some("2026-02-01T06:00:00Z"), None, NOW, NOW);
    let due = intervals_due(&daily, &later, utc(NOW), 1000);
    assert_eq!(dates(&due), [""; 0]);
    // The first whole interval after the start.
    assert_eq!(
        due.next.expect("it will").logical_date(),
        utc("2026-02-02T00:00:00Z")
    );
}

#[test]
fn a_run_by_hand_works_on_the_last_complete_interval() {
    let daily = cron("0 2 * * *", "UTC");
    let interval = |at: &str| daily.last_complete_interval(utc(at)).expect("there is one");
    let before = DataInterval {
        start: utc("2026-01-08T02:00:00Z"),
        end: utc("2026-01-09T02:00:00Z"),
    };
    let after = DataInterval {
        start: utc("2026-01-09T02:00:00Z"),
        end: utc("2026-01-10T02:00:00Z"),
    };
    assert_eq!(interval("2026-01-10T01:59:59.5Z"), before);
    assert_eq!(interval("2026-01-10T02:00:00Z"), after);
    assert_eq!(interval("2026-01-10T12:00:00Z"), after);
}

fn catchup() -> impl Strategy<Value = Catchup> {
    prop_oneof![
        Just(Catchup::None),
        Just(Catchup::Latest),
        Just(Catchup::All)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// A scheduler that looks now and then, is restarted now and then, and never makes more than a few at once.
    #[test]
    fn each_logical_date_is_made_at_most_once_and_in_order(
        catchup in catchup(),
        expression in prop::sample::select(vec!["0 * * * *", "30 1 * * *", "*/15 2-5 * * *", "0 6 * * 1"]),
        zone in prop::sample::select(vec!["UTC", "Europe/London", "Australia/Lord_Howe"]),
        start in prop::option::of(0..500i64),
        looks in prop::collection::vec((1..2000i64, any::<bool>()), 1..30),
        limit in 1..20usize,
    ) {
        let schedule = cron(expression, zone);
        let begin = utc("2026-03-20T00:17:00Z");
        let start = start.map(|hours| begin - TimeDelta::hours(hours));
        let since = first_since(start, catchup, begin);
        let mut past = Past { start, catchup, last_logical_date: None, since, watched_since: begin };
        let mut now = begin;
        let mut made: Vec<DataInterval> = Vec::new();
        let mut watched_since = begin;
        for (minutes, restarted) in looks {
            now += TimeDelta::minutes(minutes);
            if restarted {
                watched_since = now;
                past.watched_since = now;
            }
            loop {
                let due = intervals_due(&schedule, &past, now, limit);
                prop_assert!(due.intervals.len() <= limit);
                for interval in due.intervals {
                    prop_assert!(interval.start < interval.end && interval.end <= now);
                    prop_assert!(start.is_none_or(|start| interval.start >= start));
                    prop_assert!(interval.end > since);
                    if let Some(last) = made.last() {
                        prop_assert!(interval.start >= last.end, "twice or out of order");
                        if catchup == Catchup::All || interval.end > schedule.next_after(watched_since).expect("it fires") {
                            prop_assert_eq!(interval.start, last.end, "a gap");
                        }
                    }
                    past.last_logical_date = Some(interval.logical_date());
                    made.push(interval);
                }
                let next = due.next.expect("it goes on");
                if next.fires_at() > now {
                    break;
                }
            }
        }
        if catchup == Catchup::All {
            let expected = std::iter::successors(schedule.next_after(since), |tick| schedule.next_after(*tick))
                .take_while(|tick| *tick <= now)
                .filter(|tick| start.is_none_or(|start| schedule.previous_before(*tick).is_some_and(|first| first >= start)))
                .count();
            prop_assert_eq!(made.len(), expected);
        }
    }
}
