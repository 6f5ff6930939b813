//! Cron in a time zone: from wall times to instants and back, through every change of the zone's clock.
//!
//! An expression whose minute or hour field begins with `*` follows **real time**: it fires at every instant whose
//! local time matches. Any other names **fixed times**: each matching wall time runs once, at the first instant at
//! which the local clock shows it or, where it is skipped, at the first instant after the gap.

use chrono::{DateTime, NaiveDateTime, Offset, TimeZone, Utc, offset::LocalResult};
use chrono_tz::{GapInfo, Tz};

use super::{Error, cron_text::Expression, wall::Wall};

/// A cron expression in a zone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cron {
    expression: Expression,
    zone: Tz,
    wall: Wall,
    follows: Follows,
}

/// What an expression follows through a change of the zone's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    RealTime,
    FixedTimes,
}

/// No two offsets of a zone differ by as much (Kwajalein and Samoa moved by a day).
const FARTHEST_SECONDS: i64 = 27 * 3600;
/// No zone changes its offset and changes it back within this time.
const PROBE_SECONDS: i64 = 3 * 3600;
/// Instants outside of 1969-12-01 to 2101-02-01 have the same answer as these.
const EARLIEST: i64 = -2_678_400;
const LATEST: i64 = 4_136_745_600;

impl Cron {
    pub(super) fn parse(text: &str, zone: Tz) -> Result<Self, Error> {
        let expression = Expression::parse(text)?;
        let wall = Wall::new(&expression)?;
        let follows = if expression.minutes.is_starred() || expression.hours.is_starred() {
            Follows::RealTime
        } else {
            Follows::FixedTimes
        };
        Ok(Self {
            expression,
            zone,
            wall,
            follows,
        })
    }

    pub(super) fn text(&self) -> &str {
        &self.expression.text
    }

    pub(super) fn expression(&self) -> &Expression {
        &self.expression
    }

    pub(super) fn zone(&self) -> Tz {
        self.zone
    }

    pub(super) fn wall(&self) -> &Wall {
        &self.wall
    }

    pub(super) fn follows(&self) -> Follows {
        self.follows
    }

    pub(super) fn next_after(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // Ticks are whole seconds, so a tick after the instant is a tick after its whole second.
        let after = instant.timestamp().clamp(EARLIEST, LATEST);
        let tick = match self.follows {
            Follows::RealTime => self.next_real(after),
            Follows::FixedTimes => self.next_fixed(after),
        }?;
        DateTime::from_timestamp(tick, 0)
    }

    pub(super) fn previous_before(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let ceiling = instant.timestamp() + i64::from(instant.timestamp_subsec_nanos() > 0);
        let before = ceiling.clamp(EARLIEST, LATEST);
        let tick = match self.follows {
            Follows::RealTime => self.previous_real(before),
            Follows::FixedTimes => self.previous_fixed(before),
        }?;
        DateTime::from_timestamp(tick, 0)
    }

    /// Goes from one stretch of constant offset to the next until the next match lies in the same stretch.
    fn next_real(&self, mut after: i64) -> Option<i64> {
        loop {
            let offset = offset(self.zone, after + 1);
            let tick = self.wall.next_after(after + offset)? - offset;
            match stretch_end(self.zone, after + 1, tick) {
                None => return Some(tick),
                Some(changed) => after = changed - 1,
            }
        }
    }

    fn previous_real(&self, mut before: i64) -> Option<i64> {
        loop {
            let offset = offset(self.zone, before - 1);
            let tick = self.wall.previous_before(before + offset)? - offset;
            match stretch_start(self.zone, tick, before - 1) {
                None => return Some(tick),
                Some(changed) => before = changed,
            }
        }
    }

    /// Instants rise with the wall times they belong to, but several may fall together at the end of a gap.
    fn next_fixed(&self, after: i64) -> Option<i64> {
        let mut wall = after + offset(self.zone, after);
        loop {
            wall = self.wall.next_after(wall)?;
            let tick = first_instant(self.zone, wall)?;
            if tick > after {
                return Some(tick);
            }
        }
    }

    fn previous_fixed(&self, before: i64) -> Option<i64> {
        let mut wall = highest_wall_until(self.zone, before - 1) + 1;
        loop {
            wall = self.wall.previous_before(wall)?;
            let tick = first_instant(self.zone, wall)?;
            if tick < before {
                return Some(tick);
            }
        }
    }
}

/// Seconds east of UTC at an instant.
pub(super) fn offset(zone: Tz, at: i64) -> i64 {
    i64::from(
        zone.offset_from_utc_datetime(&naive(at))
            .fix()
            .local_minus_utc(),
    )
}

/// The date and time that a number of seconds since 1970 stands for.
pub(super) fn naive(seconds: i64) -> NaiveDateTime {
    DateTime::from_timestamp(seconds, 0)
        .expect("schedules stay between 1969 and 2101")
        .naive_utc()
}

/// The first instant at which the zone's clock shows `wall`, or the first one after the gap that skips it.
fn first_instant(zone: Tz, wall: i64) -> Option<i64> {
    let local = naive(wall);
    match zone.from_local_datetime(&local) {
        LocalResult::Single(at) => Some(at.timestamp()),
        LocalResult::Ambiguous(one, other) => Some(one.timestamp().min(other.timestamp())),
        LocalResult::None => GapInfo::new(&local, &zone)?.end.map(|end| end.timestamp()),
    }
}

/// The highest wall time that the zone's clock has shown until `at`: more than it shows at `at` where `at` is the
/// second time of an hour that comes twice.
fn highest_wall_until(zone: Tz, at: i64) -> i64 {
    let wall = at + offset(zone, at);
    let LocalResult::Ambiguous(one, other) = zone.from_local_datetime(&naive(wall)) else {
        return wall;
    };
    let first = one.timestamp().min(other.timestamp());
    if first == at {
        return wall;
    }
    let changed = change_between(zone, first, at);
    changed - 1 + offset(zone, first)
}

/// The first instant in `from + 1 ..= to` at which a search that began at `from` must begin again because the
/// offset has changed; `None` when the offset at `from` holds for every match until `to`.
///
/// Between the two ends no look is needed as long as they are far away: no offset differs by as much as
/// [`FARTHEST_SECONDS`], so the wall there shows nothing beyond the matches next to `from` and `to`.
fn stretch_end(zone: Tz, from: i64, to: i64) -> Option<i64> {
    let constant = offset(zone, from);
    let mut known = from;
    while known < to {
        let near = to.min(known + PROBE_SECONDS);
        let jumps = known == from + FARTHEST_SECONDS && to - FARTHEST_SECONDS > near;
        let probe = if jumps { to - FARTHEST_SECONDS } else { near };
        match (offset(zone, probe) == constant, jumps) {
            (true, _) => known = probe,
            (false, true) => return Some(probe),
            (false, false) => return Some(change_between(zone, known, probe)),
        }
    }
    None
}

/// The mirror image of [`stretch_end`]: the instant before which a search back from `to` must begin again.
fn stretch_start(zone: Tz, from: i64, to: i64) -> Option<i64> {
    let constant = offset(zone, to);
    let mut known = to;
    while known > from {
        let near = from.max(known - PROBE_SECONDS);
        let jumps = known == to - FARTHEST_SECONDS && from + FARTHEST_SECONDS < near;
        let probe = if jumps { from + FARTHEST_SECONDS } else { near };
        match (offset(zone, probe) == constant, jumps) {
            (true, _) => known = probe,
            (false, true) => return Some(probe + 1),
            (false, false) => return Some(change_between(zone, probe, known)),
        }
    }
    None
}

/// The instant of the one change of offset in `same + 1 ..= different`.
fn change_between(zone: Tz, mut same: i64, mut different: i64) -> i64 {
    let before = offset(zone, same);
    while different - same > 1 {
        let middle = same + (different - same) / 2;
        if offset(zone, middle) == before {
            same = middle;
        } else {
            different = middle;
        }
    }
    different
}
