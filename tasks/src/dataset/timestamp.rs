//! Timestamp formats: strict, and quick because a format is taken apart once. A format is what `strftime` calls one, of few letters;
//! every digit of it must be there, so that one text has one meaning.

use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};

/// What a `timestamp` field reads when its file names no formats.
pub(super) const DEFAULT_FORMATS: &[&str] = &[
    "%Y-%m-%dT%H:%M:%S%.f%z",
    "%Y-%m-%d %H:%M:%S%.f%z",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
];

/// One way to write a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Format {
    written: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    /// Nothing, or a point and one to nine digits.
    Fraction,
    /// `Z`, `+hh:mm` or `+hhmm`.
    Zone,
    Byte(u8),
}

impl Format {
    /// Takes a format apart.
    ///
    /// # Errors
    /// Says in words what cannot be read in it.
    pub(super) fn parse(written: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut bytes = written.bytes();
        while let Some(byte) = bytes.next() {
            let part = if byte == b'%' {
                match bytes.next() {
                    Some(b'Y') => Part::Year,
                    Some(b'm') => Part::Month,
                    Some(b'd') => Part::Day,
                    Some(b'H') => Part::Hour,
                    Some(b'M') => Part::Minute,
                    Some(b'S') => Part::Second,
                    Some(b'z') => Part::Zone,
                    Some(b'%') => Part::Byte(b'%'),
                    Some(b'.') if bytes.next() == Some(b'f') => Part::Fraction,
                    _ => {
                        return Err("expected %Y, %m, %d, %H, %M, %S, %.f, %z or %%".to_owned());
                    }
                }
            } else {
                Part::Byte(byte)
            };
            if part != Part::Byte(byte) && part != Part::Byte(b'%') && parts.contains(&part) {
                return Err("a part comes twice".to_owned());
            }
            parts.push(part);
        }
        let has = |part: Part| parts.contains(&part);
        if !(has(Part::Year) && has(Part::Month) && has(Part::Day)) {
            return Err("a moment needs %Y, %m and %d".to_owned());
        }
        if (has(Part::Second) && !has(Part::Minute)) || (has(Part::Minute) && !has(Part::Hour)) {
            return Err("minutes need %H, and seconds need %M".to_owned());
        }
        if has(Part::Fraction) && !has(Part::Second) {
            return Err("a fraction needs %S".to_owned());
        }
        Ok(Self {
            written: written.to_owned(),
            parts,
        })
    }

    /// The format as the file has it.
    pub(super) fn as_str(&self) -> &str {
        &self.written
    }

    /// The moment that the whole text names, in microseconds since 1970; what has no zone is UTC. Digits beyond microseconds are cut.
    pub(super) fn read(&self, text: &str) -> Option<i64> {
        let mut rest = text.as_bytes();
        let (mut year, mut month, mut day) = (0, 0, 0);
        let (mut hour, mut minute, mut second, mut micros) = (0, 0, 0, 0);
        let mut zone = 0;
        for part in &self.parts {
            match part {
                Part::Year => year = digits(&mut rest, 4)?,
                Part::Month => month = digits(&mut rest, 2)?,
                Part::Day => day = digits(&mut rest, 2)?,
                Part::Hour => hour = digits(&mut rest, 2)?,
                Part::Minute => minute = digits(&mut rest, 2)?,
                Part::Second => second = digits(&mut rest, 2)?,
                Part::Fraction => micros = fraction(&mut rest)?,
                Part::Zone => zone = offset_seconds(&mut rest)?,
                Part::Byte(byte) => rest = rest.strip_prefix(&[*byte])?,
            }
        }
        if !rest.is_empty() || year == 0 {
            return None;
        }
        let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)?;
        let time = NaiveTime::from_hms_micro_opt(hour, minute, second, micros)?;
        let local = NaiveDateTime::new(date, time);
        let utc = local.checked_sub_signed(TimeDelta::seconds(zone))?;
        Some(utc.and_utc().timestamp_micros())
    }
}

fn digits(rest: &mut &[u8], count: usize) -> Option<u32> {
    let (read, left) = rest.split_at_checked(count)?;
    *rest = left;
    read.iter().try_fold(0, |number: u32, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + u32::from(byte - b'0'))
    })
}

/// Microseconds after the point, or nothing where there is no point.
fn fraction(rest: &mut &[u8]) -> Option<u32> {
    let Some(after) = rest.strip_prefix(b".") else {
        return Some(0);
    };
    let length = after
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    if !(1..=9).contains(&length) {
        return None;
    }
    let (read, left) = after.split_at(length);
    *rest = left;
    let padded = read.iter().copied().chain(std::iter::repeat(b'0'));
    Some(
        padded
            .take(6)
            .fold(0, |number, byte| number * 10 + u32::from(byte - b'0')),
    )
}

fn offset_seconds(rest: &mut &[u8]) -> Option<i64> {
    let (sign, mut left) = match rest.split_first()? {
        (b'Z', left) => {
            *rest = left;
            return Some(0);
        }
        (b'+', left) => (1, left),
        (b'-', left) => (-1, left),
        _ => return None,
    };
    let hours = digits(&mut left, 2)?;
    left = left.strip_prefix(b":").unwrap_or(left);
    let minutes = digits(&mut left, 2)?;
    *rest = left;
    let seconds = i32::try_from(hours * 3600 + minutes * 60).ok()?;
    // No zone is a day away from UTC, and no hour has 60 minutes more.
    (minutes < 60).then_some(())?;
    FixedOffset::east_opt(seconds)?;
    Some(sign * i64::from(seconds))
}

/// The year of a moment, in UTC.
pub(super) fn year(micros: i64) -> Option<i64> {
    DateTime::from_timestamp_micros(micros).map(|moment| i64::from(moment.year()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: &str, text: &str) -> Option<i64> {
        Format::parse(format)
            .unwrap_or_else(|error| panic!("{format}: {error}"))
            .read(text)
    }

    #[test]
    fn the_three_formats_of_the_places_name_one_moment() {
        for (format, text) in [
            ("%Y-%m-%d %H:%M:%S", "2020-08-28 03:52:47"),
            ("%Y-%m-%dT%H:%M:%S", "2020-08-28T03:52:47"),
            ("%Y:%m:%d %H:%M:%S", "2020:08:28 03:52:47"),
        ] {
            assert_eq!(read(format, text), Some(1_598_586_767_000_000), "{text}");
        }
    }

    #[test]
    fn fractions_and_zones_are_read_where_the_format_has_them() {
        let format = "%Y-%m-%dT%H:%M:%S%.f%z";
        assert_eq!(read(format, "1970-01-01T01:00:00+01:00"), Some(0));
        assert_eq!(read(format, "1969-12-31T23:30:00.25-0030"), Some(250_000));
        assert_eq!(
            read(format, "1970-01-01T00:00:00.123456789Z"),
            Some(123_456)
        );
        assert_eq!(read("%Y-%m-%d", "1970-01-02"), Some(86_400_000_000));
    }

    #[test]
    fn what_is_not_exactly_a_moment_of_the_format_is_refused() {
        let format = "%Y-%m-%d %H:%M:%S";
        for text in [
            "2020-8-28 03:52:47",
            "2020-08-28 03:52:47 ",
            " 2020-08-28 03:52:47",
            "2020-02-30 00:00:00",
            "2020-08-28 24:00:00",
            "2020-08-28 03:52:60",
            "0000-01-01 00:00:00",
            "+020-01-01 00:00:00",
            "2020-08-28  03:52:47",
            "2020-08-28 03:52",
            "",
            "2020-08-28 03:52:47Z",
        ] {
            assert_eq!(read(format, text), None, "{text}");
        }
        let zoned = "%Y-%m-%dT%H:%M:%S%.f%z";
        for text in [
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00.1234567890Z",
            "1970-01-01T00:00:00+0060",
            "1970-01-01T00:00:00+24:00",
            "1970-01-01T00:00:00",
        ] {
            assert_eq!(read(zoned, text), None, "{text}");
        }
    }

    #[test]
    fn a_format_that_names_no_moment_is_refused() {
        for format in [
            "",
            "%H:%M",
            "%Y-%m-%d %M",
            "%Y-%m-%d %Q",
            "%Y-%m-%d%",
            "%Y-%Y-%m-%d",
        ] {
            assert!(Format::parse(format).is_err(), "{format}");
        }
        assert!(Format::parse("%%%Y%m%d%%").is_ok());
    }
}
