//! Durations as people write them: `90s`, `15m`, `1h 30m`, `1d`, `500ms`.

use std::time::Duration;

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What is wrong: lowercase, no full stop.
    pub message: String,
    /// The next step.
    pub hint: String,
}

const UNITS: [(&str, u64); 6] = [
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

const HINT: &str =
    "write numbers with a unit (ms, s, m, h, d, w), such as \"90s\", \"15m\" or \"1h 30m\"";

/// Reads a duration: numbers, each with a unit, added up. Spaces are allowed between the parts.
///
/// # Errors
/// There is no number, a number has no unit or an unknown one, or the sum is beyond 100 years.
pub fn parse(text: &str) -> Result<Duration, Error> {
    let refuse = |message: String| Error {
        message,
        hint: HINT.to_owned(),
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(refuse("an empty text is no duration".to_owned()));
    }
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.len()
            - rest
                .trim_start_matches(|character: char| character.is_ascii_digit())
                .len();
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let letters = after.len()
            - after
                .trim_start_matches(|character: char| character.is_alphabetic())
                .len();
        let (unit, next) = after.split_at(letters);
        if number.is_empty() {
            return Err(refuse(format!(
                "expected a number in the duration `{text}`, found `{rest}`"
            )));
        }
        if unit.is_empty() {
            return Err(refuse(format!(
                "the number {number} in the duration `{text}` has no unit"
            )));
        }
        let Some((_, unit_ms)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(refuse(format!(
                "unknown unit `{unit}` in the duration `{text}`"
            )));
        };
        total_ms = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*unit_ms))
            .and_then(|part_ms| total_ms.checked_add(part_ms))
            .filter(|total_ms| *total_ms <= 100 * 366 * 86_400_000)
            .ok_or_else(|| refuse(format!("the duration `{text}` is longer than 100 years")))?;
        rest = next.trim_start();
    }
    Ok(Duration::from_millis(total_ms))
}

/// Writes a duration so that [`parse`] reads it back, to the millisecond: `1h 30m`, `0s`.
pub fn text(duration: Duration) -> String {
    let mut rest_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut parts = Vec::new();
    for (unit, unit_ms) in UNITS.iter().skip(1) {
        let count = rest_ms / unit_ms;
        rest_ms %= unit_ms;
        if count > 0 {
            parts.push(format!("{count}{unit}"));
        }
    }
    if parts.is_empty() {
        "0s".to_owned()
    } else {
        parts.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (written, ms) in [
            ("90s", 90_000),
            ("15m", 900_000),
            ("1h 30m", 5_400_000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
            ("2 w", 1_209_600_000),
            ("500ms", 500),
            ("0s", 0),
        ] {
            assert_eq!(
                parse(written).expect(written),
                Duration::from_millis(ms),
                "{written}"
            );
        }
    }

    #[test]
    fn a_bad_duration_says_what_is_wrong() {
        for (written, message) in [
            ("", "an empty text is no duration"),
            ("15", "the number 15 in the duration `15` has no unit"),
            (
                "15 minutes",
                "unknown unit `minutes` in the duration `15 minutes`",
            ),
            (
                "-5s",
                "expected a number in the duration `-5s`, found `-5s`",
            ),
            ("1.5h", "the number 1 in the duration `1.5h` has no unit"),
            (
                "99999999999999999999s",
                "the duration `99999999999999999999s` is longer than 100 years",
            ),
        ] {
            assert_eq!(parse(written).expect_err(written).message, message);
        }
    }

    #[test]
    fn a_duration_written_is_read_back() {
        for ms in [0, 1, 999, 1_000, 61_000, 3_600_000, 90_061_001] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse(&text(duration)).expect("own text"), duration);
        }
        assert_eq!(text(Duration::from_secs(5_400)), "1h 30m");
    }
}
