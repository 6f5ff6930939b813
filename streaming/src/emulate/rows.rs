//! Which rows of the source are posted, and when: the original emulator's choice, or every row once.

use std::time::Duration;

use super::python;

/// The rows of the original table are numbered from 0 up to this.
pub const LAST_ROW: u64 = 11_000;
/// The seed of the original emulator.
pub const ORIGINAL_SEED: u64 = 100;

/// One step: which row comes next, and when. A step of the original emulator pauses for nothing or for a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// How long to wait before it.
    pub pause: Duration,
    /// The row.
    pub row: u64,
}

/// The endless steps of the original emulator for a seed: `sleep(randrange(0, 2))`, then `randint(0, 11000)`.
pub fn original(seed: u64) -> impl Iterator<Item = Choice> + Clone + Send + 'static {
    chosen(seed, LAST_ROW + 1)
}

/// The same over a source of another number of rows, at most 2³² - 1.
pub fn chosen(seed: u64, rows: u64) -> impl Iterator<Item = Choice> + Clone + Send + 'static {
    let bound = u32::try_from(rows).unwrap_or(u32::MAX);
    let mut random = python::Random::new(seed);
    std::iter::repeat_with(move || Choice {
        pause: Duration::from_secs(random.below(2).into()),
        row: random.below(bound).into(),
    })
}

/// Rows one after the other, without a pause.
pub fn in_turn(rows: impl Iterator<Item = u64>) -> impl Iterator<Item = Choice> {
    rows.map(|row| Choice {
        pause: Duration::ZERO,
        row,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_rows_for_seed_100_are_those_of_the_real_posts() {
        let rows: Vec<u64> = original(ORIGINAL_SEED)
            .take(200)
            .map(|choice| choice.row)
            .collect();
        assert_eq!(
            rows[..10],
            [7528, 2863, 5730, 8304, 8731, 1313, 4315, 10794, 5494, 5069]
        );
        // The bundled pins are in the order in which the original emulator posted them.
        let posted: Vec<u64> = include_str!("../../../data/pins.ndjson")
            .lines()
            .map(|line| {
                let pin: Value = serde_json::from_str(line).expect("the file is NDJSON");
                pin["index"].as_u64().expect("an index")
            })
            .collect();
        assert_eq!(rows, posted);
    }

    #[test]
    fn the_pauses_are_nothing_or_a_second() {
        let pauses: Vec<u64> = original(ORIGINAL_SEED)
            .take(1000)
            .map(|choice| choice.pause.as_secs())
            .collect();
        assert!(pauses.iter().all(|pause| *pause < 2));
        assert!((400..600).contains(&pauses.iter().sum::<u64>()));
    }
}
