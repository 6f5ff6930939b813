//! The plan: which offsets a run lands, decided once and never again.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{ChunkLimits, Tail};

/// What a run lands. Stored before anything is read; every try of the run carries out this very plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Differs between runs, is the same over the tries of a run.
    pub plan_id: String,
    /// The Kafka topic.
    pub topic: String,
    /// The bucket that is written to.
    pub bucket: String,
    /// What every key begins with.
    pub prefix: String,
    /// The logical date of the run.
    pub logical_date: DateTime<Utc>,
    /// Where objects are cut. Frozen too: other limits would cut other objects.
    pub chunk: ChunkLimits,
    /// One range for every partition of the topic, sorted.
    pub ranges: Vec<PlannedRange>,
    /// The records that earlier landings ended with. Reading begins by looking whether they are still the same.
    #[serde(default)]
    pub tails: Vec<Tail>,
}

/// What a run lands of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRange {
    /// The partition.
    pub partition: i32,
    /// Where the cursor stood. Differs from `start` only when deleted offsets are skipped on request.
    pub cursor: i64,
    /// The first offset, inclusive.
    pub start: i64,
    /// The last offset, exclusive.
    pub end: i64,
}

impl PlannedRange {
    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }
}

/// What the broker holds of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The partition.
    pub partition: i32,
    /// The earliest offset that is still there.
    pub low: i64,
    /// The last stable offset: everything before it is decided and may be read.
    pub high: i64,
    /// The first offset whose timestamp is not before the time up to which the task lands; `None` where there is none, or
    /// no such time.
    pub until: Option<i64>,
}

/// What to do when retention deleted offsets before they were landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenDeleted {
    /// Refuse: a person shall know that records are lost.
    Fail,
    /// Go on at the earliest offset that is left.
    Continue,
}

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Retention was faster than the landing.
    #[error("retention deleted offsets of topic `{topic}` before they were landed: {}", gaps(.deleted))]
    Deleted {
        /// The topic.
        topic: String,
        /// Partition, first deleted offset, earliest offset that is left.
        deleted: Vec<(i32, i64, i64)>,
    },
    /// The topic holds less than was landed already: it is another topic of the same name.
    #[error(
        "partition {partition} of topic `{topic}` ends at offset {end}, but offsets up to {cursor} were landed already: \
         the topic was deleted and created again"
    )]
    Recreated {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where the cursor stands.
        cursor: i64,
        /// Where the partition ends.
        end: i64,
    },
    /// The topic holds another record than was landed: it is another topic of the same name.
    #[error(
        "offset {offset} of partition {partition} of topic `{topic}` holds another record than was landed from there: \
         the topic was deleted and created again"
    )]
    Replaced {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset of the record that was landed last.
        offset: i64,
    },
}

impl PlanError {
    /// The next step for the person who reads the error.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Deleted { .. } => {
                "they cannot be read any more; set `when_deleted = \"continue\"` in the task to go on without them"
            }
            Self::Recreated { .. } | Self::Replaced { .. } => {
                "land the new topic under another `prefix`, it has a cursor of its own"
            }
        }
    }
}

/// The name of the cursor of a topic's landing in one place.
pub fn cursor_name(topic: &str, bucket: &str, prefix: &str) -> String {
    format!("landing:{topic}→{bucket}/{}", prefix.trim_matches('/'))
}

/// Decides what to land: from the cursor to the last stable offset, or to the first record that is too late. A topic that was never landed begins at its earliest
/// offset. A partition that came later began at 0, so what retention deleted of it before this landing is lost as well.
/// All ranges together hold at most `max_records` offsets, shared fairly between the partitions.
///
/// # Errors
/// See [`PlanError`].
pub fn plan_ranges(
    topic: &str,
    bounds: &[Bounds],
    cursor: &BTreeMap<i32, i64>,
    when_deleted: WhenDeleted,
    max_records: Option<u64>,
) -> Result<Vec<PlannedRange>, PlanError> {
    let recreated = |partition, cursor, end| PlanError::Recreated {
        topic: topic.to_owned(),
        partition,
        cursor,
        end,
    };
    let mut ranges = Vec::with_capacity(bounds.len());
    for bound in bounds {
        let unknown = if cursor.is_empty() { bound.low } else { 0 };
        let cursor = cursor.get(&bound.partition).copied().unwrap_or(unknown);
        if cursor > bound.high {
            return Err(recreated(bound.partition, cursor, bound.high));
        }
        let start = cursor.max(bound.low);
        ranges.push(PlannedRange {
            partition: bound.partition,
            cursor,
            start,
            end: bound.high.min(bound.until.unwrap_or(i64::MAX)).max(start),
        });
    }
    if let Some((&partition, &next)) = cursor.iter().find(|(partition, next)| {
        **next > 0 && !bounds.iter().any(|bound| bound.partition == **partition)
    }) {
        return Err(recreated(partition, next, 0));
    }
    let deleted: Vec<_> = ranges
        .iter()
        .filter(|range| range.start > range.cursor)
        .map(|range| (range.partition, range.cursor, range.start))
        .collect();
    if !deleted.is_empty() && when_deleted == WhenDeleted::Fail {
        return Err(PlanError::Deleted {
            topic: topic.to_owned(),
            deleted,
        });
    }
    ranges.sort_by_key(|range| range.partition);
    if let Some(max_records) = max_records {
        shorten(&mut ranges, max_records);
    }
    Ok(ranges)
}

/// Shortens ranges until all of them together hold at most `limit` offsets. What a short range does not need goes to
/// the longer ones.
fn shorten(ranges: &mut [PlannedRange], limit: u64) {
    let length = |range: &PlannedRange| range.end.saturating_sub(range.start).unsigned_abs();
    let mut by_length: Vec<usize> = (0..ranges.len()).collect();
    by_length.sort_by_key(|index| (length(&ranges[*index]), *index));
    let mut left = limit;
    let mut waiting = ranges.len() as u64;
    for index in by_length {
        let range = &mut ranges[index];
        // Rounded up, so that a small limit still makes progress.
        let share = left.div_ceil(waiting).min(length(range)).min(left);
        range.end = range.start.saturating_add_unsigned(share);
        left -= share;
        waiting -= 1;
    }
}

fn gaps(deleted: &[(i32, i64, i64)]) -> String {
    let gaps: Vec<_> = deleted
        .iter()
        .map(|(partition, from, to)| format!("{from} to {} of partition {partition}", to - 1))
        .collect();
    gaps.join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bounds(of: &[(i64, i64)]) -> Vec<Bounds> {
        (0..)
            .zip(of)
            .map(|(partition, (low, high))| Bounds {
                partition,
                low: *low,
                high: *high,
                until: None,
            })
            .collect()
    }

    fn range(partition: i32, cursor: i64, start: i64, end: i64) -> PlannedRange {
        PlannedRange {
            partition,
            cursor,
            start,
            end,
        }
    }

    #[test]
    fn a_plan_goes_from_the_cursor_to_the_last_stable_offset() {
        let cursor = BTreeMap::from([(0, 10), (1, 30)]);
        let ranges = plan_ranges(
            "pins",
            &bounds(&[(0, 25), (5, 30), (0, 9)]),
            &cursor,
            WhenDeleted::Fail,
            None,
        );
        assert_eq!(
            ranges,
            Ok(vec![
                range(0, 10, 10, 25),
                range(1, 30, 30, 30),
                range(2, 0, 0, 9)
            ])
        );
    }

    #[test]
    fn a_topic_begins_at_its_earliest_offset_and_a_partition_that_came_later_at_zero() {
        let bounds = bounds(&[(20, 25), (7, 9)]);
        let first = plan_ranges("pins", &bounds, &BTreeMap::new(), WhenDeleted::Fail, None);
        assert_eq!(first, Ok(vec![range(0, 20, 20, 25), range(1, 7, 7, 9)]));
        let cursor = BTreeMap::from([(0, 22)]);
        let error = plan_ranges("pins", &bounds, &cursor, WhenDeleted::Fail, None);
        assert_eq!(
            error,
            Err(PlanError::Deleted {
                topic: "pins".to_owned(),
                deleted: vec![(1, 0, 7)]
            })
        );
        let ranges = plan_ranges("pins", &bounds, &cursor, WhenDeleted::Continue, None);
        assert_eq!(ranges, Ok(vec![range(0, 22, 22, 25), range(1, 0, 7, 9)]));
    }

    #[test]
    fn a_plan_ends_before_the_first_record_that_is_too_late() {
        let mut bounds = bounds(&[(0, 90), (0, 90), (0, 90), (0, 90)]);
        // Nothing is too late; some is; all that is left is; and so is what was landed already.
        for (bound, until) in bounds.iter_mut().zip([None, Some(70), Some(50), Some(20)]) {
            bound.until = until;
        }
        let cursor = (0..4).map(|partition| (partition, 50)).collect();
        let ranges = plan_ranges("pins", &bounds, &cursor, WhenDeleted::Fail, None);
        assert_eq!(
            ranges,
            Ok(vec![
                range(0, 50, 50, 90),
                range(1, 50, 50, 70),
                range(2, 50, 50, 50),
                range(3, 50, 50, 50),
            ])
        );
        // A transaction that is open ends it earlier.
        bounds[1].high = 60;
        let ranges = plan_ranges("pins", &bounds, &cursor, WhenDeleted::Fail, None);
        assert_eq!(ranges.expect("nothing is lost")[1], range(1, 50, 50, 60));
    }

    #[test]
    fn offsets_that_retention_deleted_are_named_and_skipped_only_on_request() {
        let cursor = BTreeMap::from([(0, 10)]);
        let bounds = bounds(&[(50, 60)]);
        let error = plan_ranges("pins", &bounds, &cursor, WhenDeleted::Fail, None)
            .expect_err("records are lost");
        assert_eq!(
            error.to_string(),
            "retention deleted offsets of topic `pins` before they were landed: 10 to 49 of partition 0"
        );
        assert!(error.hint().contains("when_deleted = \"continue\""));
        let ranges = plan_ranges("pins", &bounds, &cursor, WhenDeleted::Continue, None);
        assert_eq!(ranges, Ok(vec![range(0, 10, 50, 60)]));
    }

    #[test]
    fn a_topic_that_ends_before_its_cursor_was_created_again() {
        let cursor = BTreeMap::from([(0, 10)]);
        let error = plan_ranges(
            "pins",
            &bounds(&[(0, 3)]),
            &cursor,
            WhenDeleted::Continue,
            None,
        );
        assert_eq!(
            error,
            Err(PlanError::Recreated {
                topic: "pins".to_owned(),
                partition: 0,
                cursor: 10,
                end: 3
            })
        );
        let fewer = BTreeMap::from([(0, 1), (1, 4)]);
        let error = plan_ranges(
            "pins",
            &bounds(&[(0, 3)]),
            &fewer,
            WhenDeleted::Continue,
            None,
        );
        assert_eq!(
            error,
            Err(PlanError::Recreated {
                topic: "pins".to_owned(),
                partition: 1,
                cursor: 4,
                end: 0
            })
        );
    }

    #[test]
    fn a_limit_is_shared_and_short_ranges_leave_their_share_to_long_ones() {
        let ranges = plan_ranges(
            "pins",
            &bounds(&[(0, 100), (0, 5), (0, 100)]),
            &BTreeMap::new(),
            WhenDeleted::Fail,
            Some(65),
        );
        assert_eq!(
            ranges,
            Ok(vec![
                range(0, 0, 0, 30),
                range(1, 0, 0, 5),
                range(2, 0, 0, 30)
            ])
        );
    }

    proptest! {
        #[test]
        fn repeated_plans_land_every_offset_once(
            highs in prop::collection::vec(0_i64..200, 1..6), limit in 1_u64..50,
        ) {
            let bounds = bounds(&highs.iter().map(|high| (0, *high)).collect::<Vec<_>>());
            let mut cursor = BTreeMap::new();
            loop {
                let ranges = plan_ranges("t", &bounds, &cursor, WhenDeleted::Fail, Some(limit)).expect("nothing is lost");
                let planned: i64 = ranges.iter().map(|range| range.end - range.start).sum();
                let left: i64 = bounds
                    .iter()
                    .map(|bound| bound.high - cursor.get(&bound.partition).copied().unwrap_or(0))
                    .sum();
                prop_assert_eq!(planned, left.min(i64::try_from(limit).expect("small")));
                if planned == 0 {
                    break;
                }
                for range in ranges {
                    prop_assert_eq!(range.start, cursor.get(&range.partition).copied().unwrap_or(0));
                    cursor.insert(range.partition, range.end);
                }
            }
            for bound in bounds {
                // A topic without records has no ranges.
                prop_assert_eq!(cursor.get(&bound.partition).copied().unwrap_or(0), bound.high);
            }
        }
    }
}
