//! How schedules are read, refused, told in words, and stored.

use super::*;

#[test]
fn expressions_mean_what_they_mean_to_debian() {
    // Each pair fires at the same instants.
    for (one, other) in [
        ("0 0 * * 0", "0 0 * * 7"),
        ("0 0 * * sun", "0 0 * * SUN"),
        ("0 0 * * 5-7", "0 0 * * fri,sat,sun"),
        ("0 0 * * fri-sun", "0 0 * * 0,5,6"),
        ("0 0 * * 1-7/2", "0 0 * * 0,1,3,5"),
        ("0 0 1 jan-mar *", "0 0 1 1,2,3 *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@hourly", "0 * * * *"),
        ("  0\t2 *  * * ", "0 2 * * *"),
        ("0 0 2 * * *", "0 2 * * *"),
        ("*/90 * * * *", "0 * * * *"),
    ] {
        let from = "2026-01-01T00:00:00Z";
        assert_eq!(
            ticks(&cron(one, "UTC"), from, 20),
            ticks(&cron(other, "UTC"), from, 20),
            "{one} and {other}"
        );
    }
}

#[test]
fn a_bad_expression_names_its_field_and_what_is_allowed() {
    for (expression, message, hint) in [
        (
            "60 * * * *",
            "`60` is out of range in the field `minute`",
            "the minute is a number from 0 to 59, `*`, a range, a step or a list of them",
        ),
        (
            "0 24 * * *",
            "`24` is out of range in the field `hour`",
            "the hour is a number from 0 to 23, `*`, a range, a step or a list of them",
        ),
        (
            "0 0 0 * *",
            "`0` is out of range in the field `day of month`",
            "the day of month is a number from 1 to 31, `*`, a range, a step or a list of them",
        ),
        (
            "0 0 * 13 *",
            "`13` is out of range in the field `month`",
            "the month is a number from 1 to 12 or a name from `jan` to `dec`",
        ),
        (
            "0 0 * * 8",
            "`8` is out of range in the field `day of week`",
            "the day of week is a number from 0 to 7 (0 and 7 are Sunday) or a name from `sun` to `sat`",
        ),
        (
            "0 0 * * monday",
            "`monday` is not understood in the field `day of week` (`monday`)",
            "names have three letters: `mon`",
        ),
        (
            "0 0 ? * *",
            "`?` is not understood in the field `day of month` (`?`)",
            "write `*` for any value",
        ),
        (
            "0 0 L * *",
            "`L` is not understood in the field `day of month` (`L`)",
            "`L`, `W` and `#` are not part of cron; the day of month is a number from 1 to 31, `*`, a range, a step or a list of them",
        ),
        (
            "0 22-2 * * *",
            "the range `22-2` in the field `hour` runs backwards",
            "write it as two ranges: `22-23,0-2`",
        ),
        (
            "5/10 * * * *",
            "a step on the single value `5/10` in the field `minute`",
            "write the range it runs over: `5-59/10`",
        ),
        (
            "*/0 * * * *",
            "the step `0` in the field `minute` is not a number from 1 on",
            "a step counts from the start of its range, as in `*/2` or `0-59/2`",
        ),
        (
            "1,,2 * * * *",
            "an empty entry in the list `1,,2` in the field `minute` (`1,,2`)",
            "the minute is a number from 0 to 59, `*`, a range, a step or a list of them",
        ),
        (
            "0 2 * *",
            "expected 5 fields, or 6 with seconds first, found 4 fields in `0 2 * *`",
            "the fields are minute, hour, day of month, month, day of week, as in `0 2 * * *` for 02:00 every day",
        ),
        (
            "@dayly",
            "unknown preset `@dayly`",
            "did you mean `@daily`?",
        ),
        (
            "@reboot",
            "unknown preset `@reboot`",
            "a DAG has no boot to wait for; trigger it by hand or through the API",
        ),
        (
            "0 0 31 2 *",
            "`0 0 31 2 *` never fires: no such date exists",
            "day of month and month must name a date that comes in some year, such as `29 2`",
        ),
    ] {
        let error = Schedule::parse_cron(expression, Tz::UTC).expect_err(expression);
        assert_eq!(error.message, message, "{expression}");
        assert_eq!(error.hint.as_deref(), Some(hint), "{expression}");
    }
    for expression in [
        "",
        " ",
        "* * * * * * *",
        "ü * * * *",
        "-1 * * * *",
        "1- * * * *",
        "99999999999 * * * *",
        "*/a * * * *",
        "@",
    ] {
        Schedule::parse_cron(expression, Tz::UTC).expect_err(expression);
    }
    for interval in ["", "0s", "500ms", "15", "soon", "1500ms"] {
        Schedule::parse_every(interval, None, Tz::UTC).expect_err(interval);
    }
}

#[test]
fn any_text_is_read_or_refused() {
    use proptest::prelude::*;
    proptest!(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() }, |(text in "[-0-9*/,@a-zL#? ]{0,24}")| {
        if let Ok(schedule) = Schedule::parse_cron(&text, Tz::UTC) {
            prop_assert!(schedule.next_after(DateTime::UNIX_EPOCH).is_some());
            prop_assert!(!schedule.describe().is_empty());
        }
    });
}

#[test]
fn a_schedule_is_told_in_words() {
    for (expression, words) in [
        ("0 2 * * *", "every day at 02:00 Europe/London"),
        ("0 2,14 * * *", "every day at 02:00 and 14:00 Europe/London"),
        ("* * * * *", "every minute Europe/London"),
        ("*/15 * * * *", "every 15 minutes Europe/London"),
        ("0 * * * *", "every hour Europe/London"),
        ("30 * * * *", "every hour at minute 30 Europe/London"),
        (
            "*/10 9-17 * * 1-5",
            "every 10 minutes of hours 9 to 17, every Monday to Friday Europe/London",
        ),
        ("0 0 1 * *", "on day 1 of the month at 00:00 Europe/London"),
        ("0 0 1 1 *", "on day 1 of January at 00:00 Europe/London"),
        (
            "0 0 13 * 5",
            "on day 13 of the month and every Friday at 00:00 Europe/London",
        ),
        (
            "0 0 */10 * 5",
            "on days 1, 11, 21 and 31 of the month when it is Friday at 00:00 Europe/London",
        ),
        ("0 8 * * 1", "every Monday at 08:00 Europe/London"),
        (
            "0 8 * 6-8 *",
            "every day in June to August at 08:00 Europe/London",
        ),
        ("30 0 2 * * *", "every day at 02:00:30 Europe/London"),
        ("* * * * * *", "every second Europe/London"),
        ("*/10 * * * * *", "every 10 seconds Europe/London"),
        ("@daily", "every day at 00:00 Europe/London"),
    ] {
        assert_eq!(
            cron(expression, "Europe/London").describe(),
            words,
            "{expression}"
        );
    }
    let every = Schedule::parse_every("15m", None, Tz::UTC).expect("it is an interval");
    assert_eq!(
        (every.describe(), every.text()),
        ("every 15m".to_owned(), "every 15m".to_owned())
    );
    assert_eq!(cron("@daily", "UTC").text(), "@daily");
    let london: Tz = "Europe/London".parse().expect("a zone");
    let at = |days: &[&str]| {
        Schedule::at_instants(days.iter().map(|day| utc(day)).collect(), None, london)
            .expect("a list")
    };
    let days = [
        "2026-07-01T05:00:00Z",
        "2026-01-01T06:00:00Z",
        "2026-10-01T05:00:00Z",
        "2026-04-01T05:00:30Z",
        "2027-01-01T06:00:00Z",
    ];
    for (count, words, text) in [
        (
            1,
            "once, at 2026-07-01 06:00 Europe/London",
            "at 2026-07-01T05:00:00Z",
        ),
        (
            2,
            "at 2026-01-01 06:00 and 2026-07-01 06:00 Europe/London",
            "at 2026-01-01T06:00:00Z and 2026-07-01T05:00:00Z",
        ),
        (
            5,
            "at 5 instants from 2026-01-01 06:00 to 2027-01-01 06:00 Europe/London",
            "at 2026-01-01T06:00:00Z, 2026-04-01T05:00:30Z, 2026-07-01T05:00:00Z and 2 more",
        ),
    ] {
        let schedule = at(&days[..count]);
        assert_eq!(
            (schedule.describe().as_str(), schedule.text().as_str()),
            (words, text)
        );
    }
}

#[test]
fn a_schedule_is_stored_as_its_text() {
    let every = Schedule::parse_every("15m", None, Tz::UTC).expect("it is an interval");
    let london = cron("0 2 * * *", "Europe/London");
    let both = Schedule::any_of(vec![london.clone(), every.clone()]).expect("not empty");
    let days = vec![utc("2026-01-01T06:00:00Z"), utc("2026-07-01T05:00:00Z")];
    let origin = Some(utc("2025-12-01T00:00:00Z"));
    let listed = Schedule::at_instants(days.clone(), origin, Tz::UTC).expect("a list");
    let open = Schedule::at_instants(days, None, Tz::UTC).expect("a list");
    for schedule in [&london, &every, &both, &listed, &open] {
        let stored = serde_json::to_value(schedule).expect("it is JSON");
        assert_eq!(
            &serde_json::from_value::<Schedule>(stored).expect("it is read back"),
            schedule
        );
    }
    assert_eq!(
        serde_json::to_value(&london).expect("it is JSON"),
        serde_json::json!({"cron": "0 2 * * *", "timezone": "Europe/London"})
    );
    let bad = serde_json::json!({"cron": "61 2 * * *", "timezone": "Europe/London"});
    let error = serde_json::from_value::<Schedule>(bad).expect_err("it is out of range");
    assert!(
        error.to_string().contains("`61` is out of range"),
        "{error}"
    );
}
