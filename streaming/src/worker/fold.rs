//! Messages folded to what one transaction writes: the newest post per key, window counts, dead letters, and how far each
//! partition goes. Pure: no clock, no I/O; the same messages from the same position give the same fold.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use pinwheel_tasks::dataset::{Cell, Rejected, Row, Stage};

use super::plan::Plan;

/// A time this far ahead of the clock does not move the watermark, or one wrong producer would make every other event late.
const FUTURE_MS: i64 = 5 * 60 * 1000;
/// The end of the year 9999; what is beyond is no time of an event.
const LAST_MS: i64 = 253_402_300_799_999;
/// A group's name is part of an index row.
const GROUP_BYTES: usize = 512;

/// One message as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'m> {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) key: Option<&'m [u8]>,
    pub(super) value: Option<&'m [u8]>,
}

/// Where a partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) next_offset: i64,
    pub(super) watermark_ms: Option<i64>,
}

/// What a batch does to one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advance {
    pub(super) from_offset: i64,
    pub(super) next_offset: i64,
    pub(super) watermark_ms: Option<i64>,
    pub(super) events: i64,
    pub(super) dead: i64,
    pub(super) late: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Post {
    pub(super) values: Vec<Cell>,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) timestamp_ms: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) events: i64,
    pub(super) late: i64,
    pub(super) followed: i64,
    pub(super) sum: i128,
    pub(super) max: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeadLetter {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) rejected: Rejected,
    pub(super) key: Option<Vec<u8>>,
    pub(super) raw: Option<Vec<u8>>,
}

/// What one transaction writes. Maps are ordered, so that two transactions lock rows in the same order.
#[derive(Debug, Default)]
pub(super) struct Folded {
    pub(super) advances: BTreeMap<i32, Advance>,
    pub(super) posts: BTreeMap<String, Post>,
    /// By the window's position in the plan, its start and its group.
    pub(super) windows: BTreeMap<(usize, i64, String), Counts>,
    pub(super) dead: Vec<DeadLetter>,
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// Folds messages, batch after batch.
#[derive(Debug)]
pub(super) struct Folder {
    plan: Arc<Plan>,
    lateness_ms: i64,
    positions: BTreeMap<i32, Position>,
    folded: Folded,
}

impl Folder {
    pub(super) fn new(plan: Arc<Plan>, positions: BTreeMap<i32, Position>) -> Self {
        let lateness_ms = i64::try_from(plan.definition.lateness.as_millis()).unwrap_or(i64::MAX);
        Self {
            plan,
            lateness_ms,
            positions,
            folded: Folded::default(),
        }
    }

    /// How much is folded since the last [`Folder::take`]: messages and bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.folded.messages, self.folded.bytes)
    }

    /// Hands out the batch and starts the next one.
    pub(super) fn take(&mut self) -> Folded {
        std::mem::take(&mut self.folded)
    }

    /// Adds one message. Messages before the position, and of partitions that are not held, are passed over.
    pub(super) fn add(&mut self, message: Message<'_>, now_ms: i64) {
        let Some(position) = self.positions.get_mut(&message.partition) else {
            return;
        };
        if message.offset < position.next_offset {
            return;
        }
        let timestamp_ms = message
            .timestamp_ms
            .filter(|time| (0..=LAST_MS).contains(time));
        let watermark_before = position.watermark_ms;
        let advance = self
            .folded
            .advances
            .entry(message.partition)
            .or_insert_with(|| Advance {
                from_offset: position.next_offset,
                next_offset: position.next_offset,
                watermark_ms: position.watermark_ms,
                events: 0,
                dead: 0,
                late: 0,
            });
        position.next_offset = message.offset + 1;
        if let Some(time) = timestamp_ms.filter(|time| *time <= now_ms.saturating_add(FUTURE_MS)) {
            position.watermark_ms = position.watermark_ms.max(Some(time - self.lateness_ms));
        }
        advance.next_offset = position.next_offset;
        advance.watermark_ms = position.watermark_ms;
        advance.events += 1;
        self.folded.messages += 1;
        self.folded.bytes +=
            message.value.map_or(0, <[u8]>::len) + message.key.map_or(0, <[u8]>::len);

        match self
            .plan
            .dataset
            .clean(message.value)
            .and_then(|row| keyed(&self.plan, row))
        {
            Ok((key, row)) => {
                if timestamp_ms.is_some_and(|time| {
                    count(
                        &mut self.folded.windows,
                        &self.plan,
                        &row,
                        time,
                        watermark_before,
                    )
                }) {
                    advance.late += 1;
                }
                let post = Post {
                    values: row.values,
                    partition: message.partition,
                    offset: message.offset,
                    timestamp_ms,
                };
                keep_latest(&mut self.folded.posts, key, post);
            }
            Err(rejected) => {
                advance.dead += 1;
                self.folded.dead.push(DeadLetter {
                    partition: message.partition,
                    offset: message.offset,
                    timestamp_ms,
                    rejected,
                    key: message.key.map(<[u8]>::to_vec),
                    raw: message.value.map(<[u8]>::to_vec),
                });
            }
        }
    }
}

/// The key of a row as text.
fn keyed(plan: &Plan, row: Row) -> Result<(String, Row), Rejected> {
    let key = match &row.values[plan.dataset.key()] {
        Cell::Text(text) => text.clone(),
        Cell::Integer(number) => number.to_string(),
        Cell::Boolean(_)
        | Cell::Float(_)
        | Cell::Timestamp(_)
        | Cell::Null
        | Cell::TextList(_)
        | Cell::Json(_) => {
            return Err(Rejected {
                stage: Stage::Contract,
                rule: "key".to_owned(),
                detail: "the row has no key".to_owned(),
                field: Some(plan.dataset.columns()[plan.dataset.key()].name.clone()),
            });
        }
    };
    Ok((key, row))
}

/// Adds an event to its windows and says whether it was late for one of them.
fn count(
    windows: &mut BTreeMap<(usize, i64, String), Counts>,
    plan: &Plan,
    row: &Row,
    time: i64,
    watermark: Option<i64>,
) -> bool {
    let mut is_late = false;
    for (position, window) in plan.windows.iter().enumerate() {
        let every =
            i64::try_from(window.every.as_millis()).expect("a window is at most seven days");
        let start = time - time.rem_euclid(every);
        let group = match &row.values[window.by] {
            Cell::Text(text) => text[..text.floor_char_boundary(GROUP_BYTES)].to_owned(),
            Cell::Null
            | Cell::Integer(_)
            | Cell::Float(_)
            | Cell::Boolean(_)
            | Cell::Timestamp(_)
            | Cell::TextList(_)
            | Cell::Json(_) => String::new(),
        };
        let counts = windows.entry((position, start, group)).or_default();
        counts.events += 1;
        if watermark.is_some_and(|watermark| start + every <= watermark) {
            counts.late += 1;
            is_late = true;
        }
        if let Some(Cell::Integer(value)) = window.follow.map(|follow| &row.values[follow]) {
            counts.followed += 1;
            counts.sum += i128::from(*value);
            counts.max = counts.max.max(Some(*value));
        }
    }
    is_late
}

/// The rule of the upsert's `where`, in memory.
fn keep_latest(posts: &mut BTreeMap<String, Post>, key: String, post: Post) {
    match posts.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(post);
        }
        Entry::Occupied(mut entry) => {
            let kept = entry.get();
            let is_later = if kept.partition == post.partition {
                kept.offset < post.offset
            } else {
                (kept.timestamp_ms, kept.partition) < (post.timestamp_ms, post.partition)
            };
            if is_later {
                entry.insert(post);
            }
        }
    }
}
