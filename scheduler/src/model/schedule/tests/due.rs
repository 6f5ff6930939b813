//! Which runs are due.

use std::time::Duration;

use chrono::TimeDelta;
use proptest::prelude::*;

use super::*;
use crate::model::Catchup;

fn timetable<'a>(schedule: &'a Schedule, catchup: Catchup, start: Option<&str>) -> Timetable<'a> {
    Timetable {
        schedule,
        start: start.map(utc),
        end: None,
        catchup,
        catchup_window: None,
        jitter: None,
    }
}

fn past(last: Option<&str>, since: &str, watched_since: &str) -> Past {
    Past {
        last_tick: last.map(utc),
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
    let due = |catchup| {
        let since = first_since(start.map(utc), catchup, utc(NOW)).to_rfc3339();
        timetable(&daily, catchup, start).due(&past(None, &since, NOW), utc(NOW), 1000)
    };
    assert_eq!(
        dates(&due(Catchup::All)),
        ["01-06T00", "01-07T00", "01-08T00", "01-09T00"]
    );
    assert_eq!(dates(&due(Catchup::Latest)), ["01-09T00"]);
    assert_eq!(dates(&due(Catchup::None)), [""; 0]);
    for catchup in [Catchup::All, Catchup::Latest, Catchup::None] {
        let next = due(catchup).next.expect("it goes on");
        assert_eq!(
            (next.interval.logical_date(), next.fires_at),
            (utc("2026-01-10T00:00:00Z"), utc("2026-01-11T00:00:00Z"))
        );
    }
}

#[test]
fn ticks_missed_while_nothing_watched_follow_catchup_and_later_ones_are_made() {
    let hourly = cron("0 * * * *", "UTC");
    let due = |catchup| {
        let past = past(
            Some("2026-01-10T06:00:00Z"),
            "2026-01-01T00:00:00Z",
            "2026-01-10T09:30:00Z",
        );
        let now = utc("2026-01-10T11:00:00Z");
        dates(&timetable(&hourly, catchup, None).due(&past, now, 1000))
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
    let edited = past(Some("2026-01-08T01:00:00Z"), NOW, NOW);
    let due =
        timetable(&hourly, Catchup::All, Some("2026-01-01T00:00:00Z")).due(&edited, utc(NOW), 1000);
    assert_eq!(dates(&due), [""; 0]);
    assert_eq!(
        due.next.expect("it goes on").fires_at,
        utc("2026-01-10T13:00:00Z")
    );
}

#[test]
fn the_limit_is_kept_and_the_rest_comes_in_the_next_pass() {
    let minutely = cron("* * * * *", "UTC");
    let start = "2026-01-01T00:00:00Z";
    let minutely = timetable(&minutely, Catchup::All, Some(start));
    let mut past = past(None, start, NOW);
    let first = minutely.due(&past, utc(NOW), 1000);
    assert_eq!(first.intervals.len(), 1000);
    let next = first.next.expect("there is more");
    assert!(next.fires_at <= utc(NOW));
    past.last_tick = first.last_tick;
    let second = minutely.due(&past, utc(NOW), 1000);
    assert_eq!(second.intervals.first(), Some(&next.interval));
}

#[test]
fn nothing_is_due_before_the_start() {
    let daily = cron("0 0 * * *", "UTC");
    let later = timetable(&daily, Catchup::All, Some("2026-02-01T06:00:00Z"));
    let due = later.due(&past(None, NOW, NOW), utc(NOW), 1000);
    assert_eq!(dates(&due), [""; 0]);
    // The first whole interval after the start.
    assert_eq!(
        due.next.expect("it will").interval.logical_date(),
        utc("2026-02-02T00:00:00Z")
    );
}

#[test]
fn a_run_for_a_date_works_on_the_interval_that_begins_there() {
    let daily = cron("0 2 * * *", "UTC");
    let starts = |at: &str| daily.interval_of(utc(at)).expect("there is one").start;
    assert_eq!(starts("2026-01-09T02:00:00Z"), utc("2026-01-09T02:00:00Z"));
    for between in ["2026-01-10T01:59:59Z", "2026-01-09T02:00:01Z"] {
        assert_eq!(starts(between), utc("2026-01-08T02:00:00Z"), "{between}");
    }
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

#[test]
fn the_end_is_the_last_logical_date() {
    let daily = cron("0 0 * * *", "UTC");
    let mut ending = timetable(&daily, Catchup::All, Some("2026-01-01T00:00:00Z"));
    ending.end = Some(utc("2026-01-04T00:00:00Z"));
    let past = past(None, "2026-01-01T00:00:00Z", NOW);
    let due = ending.due(&past, utc(NOW), 1000);
    assert_eq!(
        dates(&due),
        ["01-01T00", "01-02T00", "01-03T00", "01-04T00"]
    );
    assert_eq!(due.next, None);
    assert_eq!(due.last_tick, Some(utc("2026-01-05T00:00:00Z")));
    assert!(ending.upcoming(&past, utc(NOW), 5).is_empty());
    // Between two ticks it ends with the interval it lies in.
    ending.end = Some(utc("2026-01-02T15:00:00Z"));
    let due = ending.due(&past, utc(NOW), 1000);
    assert_eq!(dates(&due), ["01-01T00", "01-02T00"]);
}

#[test]
fn a_window_bounds_what_is_made_up_for_and_nothing_else() {
    let hourly = cron("0 * * * *", "UTC");
    let due = |catchup, window: u64, last| {
        let timetable = Timetable {
            catchup_window: Some(Duration::from_secs(window * 3600)),
            ..timetable(&hourly, catchup, None)
        };
        let past = past(Some(last), "2026-01-01T00:00:00Z", "2026-01-10T09:30:00Z");
        dates(&timetable.due(&past, utc("2026-01-10T11:00:00Z"), 1000))
    };
    let early = "2026-01-09T00:00:00Z";
    assert_eq!(
        due(Catchup::All, 3, early),
        ["01-10T06", "01-10T07", "01-10T08", "01-10T09", "01-10T10"],
        "07:00 to 09:00 lie in the window before 09:30, 10:00 and 11:00 were watched"
    );
    assert_eq!(due(Catchup::Latest, 3, early).first().unwrap(), "01-10T08");
    // Nothing unwatched lies in a window that is too short, however late the pass of the watched ones.
    assert_eq!(due(Catchup::All, 0, early), ["01-10T09", "01-10T10"]);
    assert_eq!(due(Catchup::Latest, 0, early), ["01-10T09", "01-10T10"]);
    assert_eq!(
        due(Catchup::All, 300, "2026-01-10T10:00:00Z"),
        ["01-10T10"],
        "a wide window brings nothing back"
    );
}

#[test]
fn jitter_puts_a_tick_off_but_never_its_dates_nor_beyond_the_next() {
    let ticks = |schedule: &Schedule, name: &str, minutes: u64| -> Vec<(DataInterval, i64)> {
        let timetable = Timetable {
            jitter: Some(Jitter {
                name,
                most: Duration::from_secs(minutes * 60),
            }),
            ..timetable(schedule, Catchup::None, None)
        };
        timetable
            .upcoming(&past(None, NOW, NOW), utc(NOW), 50)
            .into_iter()
            .map(|(planned, _)| {
                let later = planned.fires_at - planned.interval.end;
                (planned.interval, later.num_seconds())
            })
            .collect()
    };
    let hourly = cron("0 * * * *", "UTC");
    let one = ticks(&hourly, "one", 5);
    assert_eq!(one, ticks(&hourly, "one", 5), "it is the same every time");
    assert!(one.iter().all(|(_, later)| (0..=300).contains(later)));
    let distinct: std::collections::BTreeSet<_> = one.iter().map(|(_, later)| later).collect();
    assert!(distinct.len() > 30, "50 ticks of 301 choices: {distinct:?}");
    let other = ticks(&hourly, "other", 5);
    assert_ne!(one, other);
    let plain: Vec<_> = ticks(&hourly, "one", 0);
    for ((one, other), plain) in one.iter().zip(&other).zip(&plain) {
        assert_eq!((one.0, other.0), (plain.0, plain.0), "dates do not move");
        assert_eq!(plain.1, 0);
    }
    let minutely = cron("* * * * *", "UTC");
    assert!(
        ticks(&minutely, "one", 60)
            .iter()
            .all(|(_, later)| (0..60).contains(later))
    );
    let secondly = cron("* * * * * *", "UTC");
    assert!(
        ticks(&secondly, "one", 60)
            .iter()
            .all(|(_, later)| *later == 0)
    );
}

#[test]
fn a_tick_that_jitter_holds_back_while_a_scheduler_begins_to_watch_was_not_missed() {
    let daily = cron("0 0 * * *", "UTC");
    let timetable = Timetable {
        jitter: Some(Jitter {
            name: "late",
            most: Duration::from_secs(12 * 3600),
        }),
        ..timetable(&daily, Catchup::None, None)
    };
    let tick = utc("2026-01-10T00:00:00Z");
    let fires_at = timetable.fires_at(tick);
    assert!(fires_at > tick);
    let before = fires_at - TimeDelta::seconds(1);
    let past = |watched_since| Past {
        last_tick: Some(utc("2026-01-09T00:00:00Z")),
        since: utc("2026-01-01T00:00:00Z"),
        watched_since,
    };
    let due = timetable.due(&past(before), before, 10);
    assert_eq!(dates(&due), [""; 0]);
    assert_eq!(due.next.expect("it is pending").fires_at, fires_at);
    let due = timetable.due(&past(before), fires_at, 10);
    assert_eq!(dates(&due), ["01-09T00"]);
    // Whoever comes after it has missed it.
    let due = timetable.due(&past(fires_at), fires_at, 10);
    assert_eq!(dates(&due), [""; 0]);
    assert_eq!(due.last_tick, Some(tick));
}

#[test]
fn instants_follow_each_other_and_the_first_begins_at_the_start_or_a_day_before() {
    let days = [
        "2026-01-08T06:00:00Z",
        "2026-01-05T06:00:00Z",
        "2026-01-20T06:00:00Z",
    ];
    let all = |start: Option<&str>| {
        let listed = days.map(utc).to_vec();
        let schedule = Schedule::at_instants(listed, start.map(utc), Tz::UTC).expect("a schedule");
        let past = past(None, start.unwrap_or("2025-12-01T00:00:00Z"), NOW);
        let due = timetable(&schedule, Catchup::All, start).due(&past, utc(NOW), 10);
        (dates(&due), due.next.map(|next| next.interval))
    };
    let last = DataInterval {
        start: utc("2026-01-08T06:00:00Z"),
        end: utc("2026-01-20T06:00:00Z"),
    };
    assert_eq!(
        all(None),
        (
            vec!["01-04T06".to_owned(), "01-05T06".to_owned()],
            Some(last)
        )
    );
    assert_eq!(
        all(Some("2026-01-01T00:00:00Z")).0,
        ["01-01T00", "01-05T06"]
    );
    assert_eq!(all(Some("2026-01-05T06:00:00Z")).0, ["01-05T06"]);
}

#[test]
fn what_follows_an_edit_works_on_what_nothing_has_worked_on_yet() {
    let listed = |days: &[&str]| {
        let listed = days.iter().map(|day| utc(day)).collect();
        Schedule::at_instants(listed, None, Tz::UTC).expect("a schedule")
    };
    // The instant of the 8th has made its run and is removed; the one of the 20th fires all the same.
    let rest = listed(&["2026-01-05T06:00:00Z", "2026-01-20T06:00:00Z"]);
    let edited = past(Some("2026-01-08T06:00:00Z"), NOW, NOW);
    let due = timetable(&rest, Catchup::All, None).due(&edited, utc(NOW), 10);
    assert_eq!(dates(&due), [""; 0]);
    assert_eq!(
        due.next.expect("it goes on").interval,
        DataInterval {
            start: utc("2026-01-08T06:00:00Z"),
            end: utc("2026-01-20T06:00:00Z"),
        }
    );
    // From hourly to daily: today's tick is not lost, and works on the rest of its day.
    let daily = cron("0 18 * * *", "UTC");
    let edited = past(Some("2026-01-10T11:00:00Z"), NOW, NOW);
    let next = timetable(&daily, Catchup::All, None).due(&edited, utc(NOW), 10);
    assert_eq!(
        next.next.expect("it goes on").interval,
        DataInterval {
            start: utc("2026-01-10T11:00:00Z"),
            end: utc("2026-01-10T18:00:00Z"),
        }
    );
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
        jitter in prop::option::of(1..100_000u64),
        looks in prop::collection::vec((1..2000i64, any::<bool>()), 1..30),
        limit in 1..20usize,
    ) {
        let schedule = cron(expression, zone);
        let begin = utc("2026-03-20T00:17:00Z");
        let start = start.map(|hours| begin - TimeDelta::hours(hours));
        let since = first_since(start, catchup, begin);
        let jitter = jitter.map(|seconds| Jitter { name: "any", most: Duration::from_secs(seconds) });
        let timetable = Timetable { start, jitter, ..timetable(&schedule, catchup, None) };
        let mut past = Past { last_tick: None, since, watched_since: begin };
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
                let due = timetable.due(&past, now, limit);
                prop_assert!(due.intervals.len() <= limit);
                for interval in due.intervals {
                    prop_assert!(interval.start < interval.end && timetable.fires_at(interval.end) <= now);
                    prop_assert!(start.is_none_or(|start| interval.start >= start));
                    prop_assert!(interval.end > since);
                    if let Some(last) = made.last() {
                        prop_assert!(interval.start >= last.end, "twice or out of order");
                        if catchup == Catchup::All || timetable.fires_at(last.end) > watched_since {
                            prop_assert_eq!(interval.start, last.end, "a gap");
                        }
                    }
                    made.push(interval);
                }
                prop_assert!(due.last_tick >= past.last_tick);
                past.last_tick = due.last_tick;
                let next = due.next.expect("it goes on");
                if next.fires_at > now {
                    break;
                }
            }
        }
        if catchup == Catchup::All {
            let expected = std::iter::successors(schedule.next_after(since), |tick| schedule.next_after(*tick))
                .take_while(|tick| timetable.fires_at(*tick) <= now)
                .filter(|tick| start.is_none_or(|start| schedule.previous_before(*tick).is_some_and(|first| first >= start)))
                .count();
            prop_assert_eq!(made.len(), expected);
        }
    }
}
