//! Days on which schedulers are known to go wrong, worked out by hand.

use super::*;

/// Expression, zone, from, the ticks that follow.
const DAYS: &[(&str, &str, &str, &[&str])] = &[
    (
        "0 2 * * *",
        "Europe/London",
        "2026-03-28T00:00:00Z",
        &[
            "2026-03-28T02:00:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-30T01:00:00Z",
        ],
    ),
    // 01:30 does not exist on the 29th: the first instant after the gap is 02:00 local.
    (
        "30 1 * * *",
        "Europe/London",
        "2026-03-28T00:00:00Z",
        &[
            "2026-03-28T01:30:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-30T00:30:00Z",
        ],
    ),
    // 01:30 comes twice on the 25th: the first time.
    (
        "30 1 * * *",
        "Europe/London",
        "2026-10-24T00:00:00Z",
        &[
            "2026-10-24T00:30:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-26T01:30:00Z",
        ],
    ),
    (
        "30 2 * * *",
        "America/New_York",
        "2026-03-07T12:00:00Z",
        &["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
    ),
    (
        "30 1 * * *",
        "America/New_York",
        "2026-10-31T12:00:00Z",
        &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
    ),
    // Every real hour, whatever the clock shows.
    (
        "0 * * * *",
        "Europe/London",
        "2026-10-24T23:30:00Z",
        &[
            "2026-10-25T00:00:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T02:00:00Z",
        ],
    ),
    // The minute begins with `*`: no 02:xx on the day of the gap, two of them on the day of the fold.
    (
        "*/30 2 * * *",
        "Europe/Berlin",
        "2026-03-28T12:00:00Z",
        &["2026-03-30T00:00:00Z", "2026-03-30T00:30:00Z"],
    ),
    (
        "*/30 2 * * *",
        "Europe/Berlin",
        "2026-10-24T12:00:00Z",
        &[
            "2026-10-25T00:00:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:30:00Z",
            "2026-10-26T01:00:00Z",
        ],
    ),
    // Half an hour on Lord Howe.
    (
        "15 2 * * *",
        "Australia/Lord_Howe",
        "2026-10-03T00:00:00Z",
        &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
    ),
    (
        "45 1 * * *",
        "Australia/Lord_Howe",
        "2026-04-04T00:00:00Z",
        &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
    ),
    (
        "*/30 * * * *",
        "Australia/Lord_Howe",
        "2026-10-03T14:45:00Z",
        &[
            "2026-10-03T15:00:00Z",
            "2026-10-03T15:30:00Z",
            "2026-10-03T16:00:00Z",
        ],
    ),
    // Midnight itself is skipped.
    (
        "0 0 * * *",
        "America/Santiago",
        "2026-09-05T12:00:00Z",
        &["2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"],
    ),
    (
        "30 0 * * *",
        "Africa/Cairo",
        "2026-04-23T12:00:00Z",
        &["2026-04-23T22:00:00Z", "2026-04-24T21:30:00Z"],
    ),
    (
        "0 0 * * *",
        "Asia/Beirut",
        "2026-03-28T12:00:00Z",
        &["2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z"],
    ),
    // A whole day that never was: its noon runs as the next day begins.
    (
        "0 12 * * *",
        "Pacific/Apia",
        "2011-12-29T00:00:00Z",
        &[
            "2011-12-29T22:00:00Z",
            "2011-12-30T10:00:00Z",
            "2011-12-30T22:00:00Z",
        ],
    ),
    // Ramadan: the clock goes back for a month.
    (
        "30 2 * * *",
        "Africa/Casablanca",
        "2026-02-14T12:00:00Z",
        &["2026-02-15T01:30:00Z", "2026-02-16T02:30:00Z"],
    ),
    (
        "30 2 * * *",
        "Africa/Casablanca",
        "2026-03-21T12:00:00Z",
        &["2026-03-22T02:00:00Z", "2026-03-23T01:30:00Z"],
    ),
    // Two hours at once; two times in one gap are one run.
    (
        "0 1,2 * * *",
        "Antarctica/Troll",
        "2026-03-28T12:00:00Z",
        &["2026-03-29T01:00:00Z", "2026-03-29T23:00:00Z"],
    ),
    // A leap day that is a Sunday comes every 28 years, and not in 2100.
    (
        "0 0 29 2 */7",
        "UTC",
        "2026-01-01T00:00:00Z",
        &["2032-02-29T00:00:00Z", "2060-02-29T00:00:00Z"],
    ),
    // Day of month or day of week.
    (
        "0 0 13 * 5",
        "UTC",
        "2026-01-01T12:00:00Z",
        &[
            "2026-01-02T00:00:00Z",
            "2026-01-09T00:00:00Z",
            "2026-01-13T00:00:00Z",
            "2026-01-16T00:00:00Z",
        ],
    ),
    // A day field that begins with `*` only narrows.
    (
        "0 0 */2 * 5",
        "UTC",
        "2026-01-01T12:00:00Z",
        &["2026-01-09T00:00:00Z", "2026-01-23T00:00:00Z"],
    ),
    // Seconds repeat within a fixed minute.
    (
        "*/30 0 2 * * *",
        "Europe/London",
        "2026-03-29T00:00:00Z",
        &[
            "2026-03-29T01:00:00Z",
            "2026-03-29T01:00:30Z",
            "2026-03-30T01:00:00Z",
        ],
    ),
];

#[test]
fn known_days_fire_when_they_should() {
    for (expression, zone, from, expected) in DAYS {
        let schedule = cron(expression, zone);
        assert_eq!(
            ticks(&schedule, from, expected.len()),
            *expected,
            "`{expression}` in {zone} from {from}"
        );
        for pair in expected.windows(2) {
            assert_eq!(
                schedule.previous_before(utc(pair[1])),
                Some(utc(pair[0])),
                "`{expression}` in {zone}"
            );
        }
    }
}

#[test]
fn a_mark_says_what_the_clock_does() {
    let marks = |expression: &str, zone: &str, from: &str, count: usize| -> Vec<Option<String>> {
        let occurrences = cron(expression, zone).upcoming(utc(from), count);
        occurrences
            .into_iter()
            .map(|occurrence| occurrence.mark.map(|mark| mark.to_string()))
            .collect()
    };
    assert_eq!(
        marks("30 1 * * *", "Europe/London", "2026-03-28T00:00:00Z", 3),
        [
            None,
            Some("01:30 does not exist on this day, runs at 02:00".to_owned()),
            None
        ]
    );
    assert_eq!(
        marks("0 2 * * *", "Europe/London", "2026-03-28T00:00:00Z", 3),
        [None, None, None]
    );
    assert_eq!(
        marks("30 1 * * *", "Europe/London", "2026-10-24T00:00:00Z", 3),
        [
            None,
            Some("01:30 comes twice, runs the first time".to_owned()),
            None
        ]
    );
    assert_eq!(
        marks("0 * * * *", "Europe/London", "2026-10-24T23:30:00Z", 3),
        [
            None,
            Some("the clock went back by 1h before this run".to_owned()),
            None
        ]
    );
    assert_eq!(
        marks(
            "0 * * * *",
            "Australia/Lord_Howe",
            "2026-10-03T14:15:00Z",
            3
        ),
        [
            None,
            Some("the clock went forward by 30m before this run".to_owned()),
            None
        ]
    );
    assert_eq!(
        marks("0 * * * *", "UTC", "2026-10-03T14:45:00Z", 2),
        [None, None]
    );
}

#[test]
fn a_search_ends() {
    // This hour of this day is skipped every year that has summer time.
    let never = cron("*/5 1 25-31 3 */7", "Europe/London");
    // The time zone database ends with 2099.
    assert_eq!(
        never.next_after(utc("2026-01-01T00:00:00Z")),
        Some(utc("2100-03-28T01:00:00Z"))
    );
    let daily = cron("0 0 * * *", "UTC");
    assert_eq!(daily.next_after(utc("2100-12-31T00:00:00Z")), None);
    assert_eq!(daily.next_after(utc("+5000-01-01T00:00:00Z")), None);
    assert_eq!(
        daily.previous_before(utc("+5000-01-01T00:00:00Z")),
        Some(utc("2100-12-31T00:00:00Z"))
    );
    assert_eq!(
        daily.next_after(utc("1000-01-01T00:00:00Z")),
        Some(utc("1970-01-01T00:00:00Z"))
    );
    assert_eq!(daily.previous_before(utc("1970-01-01T00:00:00Z")), None);
    let secondly = cron("* * * * * *", "UTC");
    assert_eq!(
        secondly.previous_before(utc("+5000-01-01T00:00:00Z")),
        Some(utc("2100-12-31T23:59:59Z"))
    );
}

#[test]
fn a_fraction_of_a_second_is_neither_before_nor_after_its_tick_by_mistake() {
    let daily = cron("0 2 * * *", "UTC");
    let tick = utc("2026-01-01T02:00:00Z");
    assert_eq!(
        daily.next_after(utc("2026-01-01T01:59:59.999Z")),
        Some(tick)
    );
    assert_eq!(
        daily.previous_before(utc("2026-01-01T02:00:00.001Z")),
        Some(tick)
    );
    assert_eq!(
        daily.previous_before(tick),
        Some(utc("2025-12-31T02:00:00Z"))
    );
}

#[test]
fn an_interval_counts_from_its_anchor() {
    let quarter = Schedule::parse_every("15m", None, Tz::UTC).expect("it is an interval");
    assert_eq!(
        ticks(&quarter, "2026-01-01T00:00:00Z", 2),
        ["2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"]
    );
    assert_eq!(
        quarter.previous_before(utc("2026-01-01T00:15:00Z")),
        Some(utc("2026-01-01T00:00:00Z"))
    );
    assert_eq!(
        quarter.previous_before(utc("2026-01-01T00:15:00.5Z")),
        Some(utc("2026-01-01T00:15:00Z"))
    );
    let anchored = Schedule::parse_every("90m", Some(utc("2026-01-01T00:10:00Z")), Tz::UTC)
        .expect("it is an interval");
    assert_eq!(
        ticks(&anchored, "2025-12-31T22:00:00Z", 3),
        [
            "2025-12-31T22:40:00Z",
            "2026-01-01T00:10:00Z",
            "2026-01-01T01:40:00Z"
        ]
    );
}

#[test]
fn several_schedules_fire_once_where_they_agree() {
    let both = Schedule::any_of(vec![cron("0 2 * * *", "UTC"), cron("0 2,14 * * *", "UTC")])
        .expect("not empty");
    assert_eq!(
        ticks(&both, "2026-01-01T00:00:00Z", 3),
        [
            "2026-01-01T02:00:00Z",
            "2026-01-01T14:00:00Z",
            "2026-01-02T02:00:00Z"
        ]
    );
    assert_eq!(
        both.previous_before(utc("2026-01-02T02:00:00Z")),
        Some(utc("2026-01-01T14:00:00Z"))
    );
    assert!(Schedule::any_of(Vec::new()).is_err());
}

/// Samoa went from the 29th to the 31st of December 2011: there was no 30th, which was a Friday.
#[test]
fn a_day_that_does_not_exist_is_made_up_for_once_as_the_next_one_begins() {
    let after = "2011-12-29T12:00:00Z";
    // Midnight of the 31st on Apia's clock, at which the gap of a day ends.
    let gap_ends = "2011-12-30T10:00:00Z";
    for zone in ["Pacific/Apia", "US/Samoa"] {
        let friday = ticks(&cron("0 12 * * 5", zone), after, 1);
        let hourly = cron("0 * * * *", zone).upcoming(utc(after), 48);
        assert!(
            hourly
                .windows(2)
                .all(|pair| pair[1].at - pair[0].at == chrono::TimeDelta::hours(1))
        );
        let marks: Vec<String> = hourly
            .iter()
            .filter_map(|tick| Some(tick.mark?.to_string()))
            .collect();
        match zone {
            "Pacific/Apia" => {
                assert_eq!(friday, [gap_ends]);
                assert_eq!(marks, ["the clock went forward by 1d before this run"]);
            }
            // American Samoa stayed where it was.
            _ => {
                assert_eq!(friday, ["2011-12-30T23:00:00Z"]);
                assert!(marks.is_empty());
            }
        }
    }
    let apia = cron("0 0,12 * * *", "Pacific/Apia");
    assert_eq!(
        ticks(&apia, after, 3),
        ["2011-12-29T22:00:00Z", gap_ends, "2011-12-30T22:00:00Z"],
        "midnight and noon of the 30th, and midnight of the 31st, are one run"
    );
    assert_eq!(
        apia.previous_before(utc("2011-12-30T22:00:00Z")),
        Some(utc(gap_ends))
    );
}

/// In Chile, Lord Howe and Casablanca a run works on a real day, however long the clock says that it was.
#[test]
fn the_data_interval_of_a_day_on_which_the_clock_changes_is_as_long_as_that_day() {
    for (expression, zone, closes, hours, words) in [
        (
            "0 0 * * *",
            "America/Santiago",
            "2026-09-07T03:00:00Z",
            23.0,
            "2026-09-06 04:00 to 2026-09-07 03:00 UTC (23h)",
        ),
        (
            "0 12 * * *",
            "Australia/Lord_Howe",
            "2026-10-04T01:00:00Z",
            23.5,
            "2026-10-03 01:30 to 2026-10-04 01:00 UTC (23h 30m)",
        ),
        (
            "0 12 * * *",
            "Africa/Casablanca",
            "2026-02-15T12:00:00Z",
            25.0,
            "2026-02-14 11:00 to 2026-02-15 12:00 UTC (1d 1h)",
        ),
    ] {
        let interval = cron(expression, zone)
            .interval_closed_by(utc(closes))
            .expect("there is one before it");
        let length = (interval.end - interval.start).num_minutes() as f64 / 60.0;
        assert_eq!(
            (length, interval.to_string().as_str()),
            (hours, words),
            "{zone}"
        );
    }
}
