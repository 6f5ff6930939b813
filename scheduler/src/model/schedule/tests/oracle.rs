//! Every zone and random expressions against an oracle that looks at every minute of real time and follows the
//! definition word by word. It shares no code with the search, and reads no cron text.

use std::collections::BTreeSet;

use chrono::{Datelike, NaiveDateTime, TimeDelta, TimeZone, Timelike};
use chrono_tz::TZ_VARIANTS;
use proptest::prelude::*;

use super::*;

/// An expression as sets, and the text that means them.
#[derive(Debug, Clone)]
struct Meant {
    text: String,
    minutes: BTreeSet<u32>,
    hours: BTreeSet<u32>,
    days_of_month: BTreeSet<u32>,
    months: BTreeSet<u32>,
    days_of_week: BTreeSet<u32>,
    day_of_month_starred: bool,
    day_of_week_starred: bool,
    follows_real_time: bool,
}

impl Meant {
    fn new(fields: [Part; 5]) -> Self {
        let [minute, hour, day_of_month, month, day_of_week] = fields;
        Self {
            text: [&minute, &hour, &day_of_month, &month, &day_of_week]
                .map(|part| part.text.clone())
                .join(" "),
            follows_real_time: minute.starred() || hour.starred(),
            day_of_month_starred: day_of_month.starred(),
            day_of_week_starred: day_of_week.starred(),
            minutes: minute.values,
            hours: hour.values,
            days_of_month: day_of_month.values,
            months: month.values,
            days_of_week: day_of_week.values.into_iter().map(|day| day % 7).collect(),
        }
    }

    fn matches(&self, wall: NaiveDateTime) -> bool {
        if !self.minutes.contains(&wall.minute()) || !self.hours.contains(&wall.hour()) {
            return false;
        }
        let day_of_month = self.days_of_month.contains(&wall.day());
        let day_of_week = self
            .days_of_week
            .contains(&wall.weekday().num_days_from_sunday());
        let day = if self.day_of_month_starred || self.day_of_week_starred {
            day_of_month && day_of_week
        } else {
            day_of_month || day_of_week
        };
        day && self.months.contains(&wall.month())
    }
}

/// One field: its text and what it allows.
#[derive(Debug, Clone)]
struct Part {
    text: String,
    values: BTreeSet<u32>,
}

impl Part {
    fn starred(&self) -> bool {
        self.text.starts_with('*')
    }

    fn all(lowest: u32, highest: u32) -> Self {
        Self {
            text: "*".to_owned(),
            values: (lowest..=highest).collect(),
        }
    }

    fn steps(lowest: u32, highest: u32, step: usize) -> Self {
        Self {
            text: format!("*/{step}"),
            values: (lowest..=highest).step_by(step).collect(),
        }
    }

    fn range(first: u32, last: u32, step: usize) -> Self {
        Self {
            text: format!("{first}-{last}/{step}"),
            values: (first..=last).step_by(step).collect(),
        }
    }

    fn list(values: &[u32]) -> Self {
        let text = values
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(",");
        Self {
            text,
            values: values.iter().copied().collect(),
        }
    }
}

/// A stretch of real time, minute by minute, with what a zone's clock does. The first minute is not told: what came
/// before it could matter.
struct Stretch {
    minutes: Vec<Minute>,
}

struct Minute {
    at: DateTime<Utc>,
    shows: NaiveDateTime,
    /// Whether the clock has not shown this before.
    first_time: bool,
    /// What the clock skipped to get here.
    skipped: Vec<NaiveDateTime>,
}

impl Stretch {
    fn new(zone: Tz, from: DateTime<Utc>, minutes: i64) -> Self {
        let minute = TimeDelta::minutes(1);
        let mut highest = from.with_timezone(&zone).naive_local();
        let mut stretch = Vec::new();
        for number in 1..minutes {
            let at = from + minute * i32::try_from(number).expect("a stretch is a year at most");
            let shows = at.with_timezone(&zone).naive_local();
            let skipped =
                std::iter::successors(Some(highest + minute), |skipped| Some(*skipped + minute))
                    .take_while(|skipped| *skipped < shows)
                    .collect();
            stretch.push(Minute {
                at,
                shows,
                first_time: shows > highest,
                skipped,
            });
            highest = highest.max(shows);
        }
        Self { minutes: stretch }
    }

    fn expected(&self, meant: &Meant) -> Vec<DateTime<Utc>> {
        let fires = |minute: &&Minute| {
            if meant.follows_real_time {
                meant.matches(minute.shows)
            } else {
                minute.first_time && meant.matches(minute.shows)
                    || minute.skipped.iter().any(|skipped| meant.matches(*skipped))
            }
        };
        self.minutes
            .iter()
            .filter(fires)
            .map(|minute| minute.at)
            .collect()
    }

    fn check(&self, meant: &Meant, zone: Tz) -> Result<(), String> {
        let Ok(schedule) = Schedule::parse_cron(&meant.text, zone) else {
            return if self.expected(meant).is_empty() {
                Ok(())
            } else {
                Err(format!("{} was refused", meant.text))
            };
        };
        let first = self.minutes[0].at - TimeDelta::minutes(1);
        let last = self.minutes[self.minutes.len() - 1].at;
        let expected = self.expected(meant);
        let forwards: Vec<_> = std::iter::successors(schedule.next_after(first), |tick| {
            schedule.next_after(*tick)
        })
        .take_while(|tick| *tick <= last)
        .collect();
        let mut backwards: Vec<_> = std::iter::successors(
            schedule.previous_before(last + TimeDelta::seconds(1)),
            |tick| schedule.previous_before(*tick),
        )
        .take_while(|tick| *tick > first)
        .collect();
        backwards.reverse();
        for (direction, found) in [("forwards", forwards), ("backwards", backwards)] {
            if found != expected {
                let differs = found
                    .iter()
                    .zip(&expected)
                    .position(|(one, other)| one != other);
                let at = differs.unwrap_or(found.len().min(expected.len()));
                return Err(format!(
                    "`{}` in {zone} {direction}: expected {:?}, found {:?} (tick {at} after {first})",
                    meant.text,
                    expected.get(at),
                    found.get(at)
                ));
            }
        }
        Ok(())
    }
}

/// The instants at which a zone's clock changed from 1985 to 2040, to the day.
fn changes(zone: Tz) -> Vec<DateTime<Utc>> {
    use chrono::Offset;
    let days = (0..55 * 365).map(|day| utc("1985-01-01T00:00:00Z") + TimeDelta::days(day));
    let offsets: Vec<_> = days
        .map(|day| {
            (
                day,
                zone.offset_from_utc_datetime(&day.naive_utc())
                    .fix()
                    .local_minus_utc(),
            )
        })
        .collect();
    offsets
        .windows(2)
        .filter(|pair| pair[0].1 != pair[1].1)
        .map(|pair| pair[0].0)
        .collect()
}

#[test]
fn every_zone_keeps_the_definition_around_its_changes() {
    let every_day = || [Part::all(1, 31), Part::all(1, 12), Part::all(0, 7)];
    let daily = |minute: Part, hour: Part| {
        let [day, month, week] = every_day();
        Meant::new([minute, hour, day, month, week])
    };
    let meant = [
        daily(Part::list(&[0]), Part::list(&[2])),
        daily(Part::list(&[30]), Part::list(&[1])),
        daily(Part::list(&[0]), Part::list(&[0])),
        daily(Part::list(&[15, 45]), Part::range(0, 3, 1)),
        daily(Part::steps(0, 59, 15), Part::list(&[2])),
        daily(Part::list(&[30]), Part::all(0, 23)),
        daily(Part::list(&[10]), Part::steps(0, 23, 2)),
    ];
    for (zone, change) in changes_everywhere() {
        let stretch = Stretch::new(zone, change - TimeDelta::hours(36), 84 * 60);
        for meant in &meant {
            stretch
                .check(meant, zone)
                .unwrap_or_else(|problem| panic!("{problem}"));
        }
    }
}

/// Changes of every zone's clock, each once for all the names that share the clock: the last ones, where the present rules
/// are, and some of the past that was stranger.
fn changes_everywhere() -> Vec<(Tz, DateTime<Utc>)> {
    let mut seen = BTreeSet::new();
    let mut chosen = Vec::new();
    for zone in TZ_VARIANTS {
        let changes = changes(zone);
        let last = changes.len().saturating_sub(2);
        let some = changes
            .iter()
            .skip(last)
            .chain(changes.iter().take(last).step_by(31));
        for change in some {
            let clock = |at: DateTime<Utc>| at.with_timezone(&zone).naive_local();
            if seen.insert((
                *change,
                clock(*change),
                clock(*change + TimeDelta::hours(24)),
            )) {
                chosen.push((zone, *change));
            }
        }
    }
    chosen
}

#[test]
fn an_hourly_schedule_fires_every_real_hour_in_every_zone() {
    use chrono::Offset;
    let mut odd = BTreeSet::new();
    for (zone, change) in changes_everywhere() {
        let hourly = Schedule::parse_cron("0 * * * *", zone).expect("it is an expression");
        let offset = |at: DateTime<Utc>| {
            i64::from(
                zone.offset_from_utc_datetime(&at.naive_utc())
                    .fix()
                    .local_minus_utc(),
            )
        };
        let first = change - TimeDelta::hours(36);
        let ticks: Vec<_> =
            std::iter::successors(hourly.next_after(first), |tick| hourly.next_after(*tick))
                .take_while(|tick| *tick <= change + TimeDelta::hours(36))
                .collect();
        assert!(ticks.len() >= 70, "{zone} around {change}");
        for pair in ticks.windows(2) {
            let moved = (offset(pair[1]) - offset(pair[0])).rem_euclid(3600);
            let expected = if moved == 0 {
                TimeDelta::hours(1)
            } else {
                // The clock moved by a part of an hour: its full hours lie elsewhere from then on.
                odd.insert(zone.name());
                let shorter = TimeDelta::seconds(3600 - moved);
                if pair[1] - pair[0] < TimeDelta::hours(1) {
                    shorter
                } else {
                    TimeDelta::hours(1) + shorter
                }
            };
            assert_eq!(pair[1] - pair[0], expected, "{zone}: {pair:?}");
        }
    }
    // By whichever of its names comes first.
    assert!(odd.contains("Australia/LHI"), "{odd:?}");
}

/// Expressions that both crates read alike: a minute or an hour for any time, or one of each.
fn meant_alike() -> impl Strategy<Value = Meant> {
    let any = |lowest, highest| {
        prop_oneof![
            Just(Part::all(lowest, highest)),
            (2..=12usize).prop_map(move |step| Part::steps(lowest, highest, step)),
        ]
    };
    let one = |lowest: u32, highest: u32| (lowest..=highest).prop_map(|value| Part::list(&[value]));
    let time = prop_oneof![
        (any(0, 59), part(0, 23)),
        (part(0, 59), any(0, 23)),
        (one(0, 59), one(0, 23)),
        // The hours at which clocks change.
        (one(0, 59), one(0, 3)),
    ];
    let day = |lowest, highest| {
        prop_oneof![
            4 => Just(Part::all(lowest, highest)),
            1 => prop::collection::vec(lowest..=highest, 1..4).prop_map(|values| Part::list(&values)),
        ]
    };
    (time, day(1, 31), day(0, 6)).prop_map(|((minute, hour), day_of_month, day_of_week)| {
        Meant::new([minute, hour, day_of_month, Part::all(1, 12), day_of_week])
    })
}

/// Whether the other crate is known to see a tick in another way: of a time that is skipped it says that it runs after the
/// gap on the same calendar day, and of a gap of more than two hours nothing. Here it runs after the gap, whenever that is.
fn is_seen_otherwise(schedule: &Schedule, tick: DateTime<Utc>) -> bool {
    match schedule.occurrence(tick).mark {
        Some(DstMark::Gap { missing, runs }) => {
            missing.date() != runs.date() || runs - missing > TimeDelta::hours(2)
        }
        Some(DstMark::Fold { .. } | DstMark::Shift { .. }) | None => false,
    }
}

/// Whether a day is missing right before an instant.
fn is_lost_day(instant: &DateTime<chrono_tz::Tz>) -> bool {
    let before = *instant - TimeDelta::days(1);
    (instant.naive_local() - before.naive_local()).abs() > TimeDelta::hours(36)
}

/// The same ticks as another crate, forwards and backwards, around changes of the clock of every zone.
#[test]
fn another_crate_agrees_in_every_zone() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let strategy = meant_alike();
    let (mut compared, mut otherwise, mut problems) = (0_usize, 0_usize, Vec::new());
    for zone in TZ_VARIANTS {
        let changes = changes(zone);
        for number in 0..6_usize {
            let meant = strategy.new_tree(&mut runner).expect("a value").current();
            let from = match changes.len() {
                0 => utc("2026-03-01T00:00:00Z"),
                // The last ones, and some of the past.
                count if number < 3 => changes[count - 1 - number % count.min(2)],
                count => changes[(number * 7919 + compared) % count],
            } - TimeDelta::days(2);
            let Ok(schedule) = Schedule::parse_cron(&meant.text, zone) else {
                continue;
            };
            let other: croner::Cron = meant.text.parse().expect("it is an expression");
            let local = |instant: DateTime<Utc>| instant.with_timezone(&zone);
            let mut instant = from;
            for direction in ["after", "before"] {
                for _ in 0..12 {
                    let (ours, theirs) = if direction == "after" {
                        (
                            schedule.next_after(instant),
                            other.find_next_occurrence(&local(instant), false),
                        )
                    } else {
                        (
                            schedule.previous_before(instant),
                            other.find_previous_occurrence(&local(instant), false),
                        )
                    };
                    let ours = ours.expect("it fires");
                    compared += 1;
                    if theirs.ok().map(|tick| tick.with_timezone(&Utc)) != Some(ours) {
                        // From the end of a day that does not exist the other one goes back too far.
                        let from_a_gap = is_lost_day(&local(instant));
                        if is_seen_otherwise(&schedule, ours) || from_a_gap {
                            otherwise += 1;
                        } else {
                            problems.push(format!(
                                "`{}` in {zone} {direction} {instant}: {ours}",
                                meant.text
                            ));
                        }
                    }
                    instant = ours;
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(
        compared > 40_000 && otherwise < compared / 500,
        "{otherwise} of {compared}"
    );
}

fn part(lowest: u32, highest: u32) -> impl Strategy<Value = Part> {
    prop_oneof![
        3 => Just(Part::all(lowest, highest)),
        1 => (1..=12usize).prop_map(move |step| Part::steps(lowest, highest, step)),
        1 => (lowest..=highest, lowest..=highest, 1..=5usize)
            .prop_map(|(one, other, step)| Part::range(one.min(other), one.max(other), step)),
        3 => prop::collection::vec(lowest..=highest, 1..4).prop_map(|values| Part::list(&values)),
    ]
}

fn fixed_part(lowest: u32, highest: u32) -> impl Strategy<Value = Part> {
    prop_oneof![
        1 => part(lowest, highest),
        2 => prop::collection::vec(lowest..=highest, 1..3).prop_map(|values| Part::list(&values)),
    ]
}

fn meant() -> impl Strategy<Value = Meant> {
    (
        fixed_part(0, 59),
        fixed_part(0, 23),
        part(1, 31),
        part(1, 12),
        part(0, 7),
    )
        .prop_map(|(minute, hour, day, month, week)| Meant::new([minute, hour, day, month, week]))
}

fn zone() -> impl Strategy<Value = Tz> {
    prop::sample::select(TZ_VARIANTS.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_expressions_keep_the_definition(meant in meant(), zone in zone(), which in any::<prop::sample::Index>(), day in 0..20_000i64) {
        let changes = changes(zone);
        let from = if changes.is_empty() {
            utc("1985-01-01T00:00:00Z") + TimeDelta::days(day)
        } else {
            *which.get(&changes) - TimeDelta::days(2)
        };
        let stretch = Stretch::new(zone, from, 6 * 24 * 60);
        prop_assert_eq!(stretch.check(&meant, zone), Ok(()));
    }

    #[test]
    fn next_and_previous_are_inverse(meant in meant(), zone in zone(), second in 0..1_900_000_000i64) {
        let Ok(schedule) = Schedule::parse_cron(&meant.text, zone) else { return Ok(()) };
        let instant = DateTime::from_timestamp(second, 0).expect("it is a date");
        if let Some(next) = schedule.next_after(instant) {
            prop_assert!(next > instant);
            prop_assert!(schedule.previous_before(next).is_none_or(|previous| previous <= instant));
            if let Some(later) = schedule.next_after(next) {
                prop_assert!(later > next);
                prop_assert_eq!(schedule.previous_before(later), Some(next));
            }
        }
        if let Some(previous) = schedule.previous_before(instant) {
            prop_assert!(previous < instant);
            prop_assert!(schedule.next_after(previous).is_none_or(|next| next >= instant));
        }
    }

    /// Where nothing but the calendar matters, another crate says the same. It takes `*/2` for a day that is given.
    #[test]
    fn another_crate_agrees_about_the_calendar(meant in meant(), second in 0..1_900_000_000i64) {
        let starred_step = |text: &str| text.starts_with("*/");
        let fields: Vec<&str> = meant.text.split(' ').collect();
        prop_assume!(!starred_step(fields[2]) && !starred_step(fields[4]));
        let Ok(schedule) = Schedule::parse_cron(&meant.text, Tz::UTC) else { return Ok(()) };
        let other: croner::Cron = meant.text.parse().map_err(|error| TestCaseError::fail(format!("{error}")))?;
        let mut instant = DateTime::from_timestamp(second, 0).expect("it is a date");
        for _ in 0..5 {
            let next = schedule.next_after(instant).expect("it fires");
            prop_assert_eq!(Some(next), other.find_next_occurrence(&instant, false).ok(), "{}", meant.text);
            instant = next;
        }
    }
}

proptest! {
    // A year has half a million minutes to look at.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rare_expressions_keep_the_definition_over_a_year(
        minute in 0..60u32, hour in 0..24u32, fields in (part(1, 31), part(1, 12), part(0, 7)), starred in any::<bool>(),
        zone in zone(), year in 1986..2039i32,
    ) {
        let minute = if starred { Part::steps(0, 59, 47) } else { Part::list(&[minute]) };
        let meant = Meant::new([minute, Part::list(&[hour % 4]), fields.0, fields.1, fields.2]);
        let from = utc(&format!("{year}-01-01T00:00:00Z"));
        let stretch = Stretch::new(zone, from, 380 * 24 * 60);
        prop_assert_eq!(stretch.check(&meant, zone), Ok(()));
    }
}
