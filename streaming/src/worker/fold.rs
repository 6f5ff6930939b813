//! Messages folded to what one transaction writes: the newest post per key, window counts, dead letters, and how far each
//! partition goes. Pure: no clock, no I/O; the same messages from the same position give the same fold.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use chrono::{DateTime, NaiveDateTime};
use pinwheel_tasks::dataset::{Cell, Rejected, Row, Stage};

use super::{
    definition::{Keep, Late},
    plan::{Plan, Window, WindowSpan},
    rows::{Newest, Rows},
};

/// A time this far ahead of the clock does not move the watermark, or one wrong producer would make every other event late.
const FUTURE_MS: i64 = 5 * 60 * 1000;
/// The end of the year 9999; what is beyond is no time of an event.
const LAST_MS: i64 = 253_402_300_799_999;
/// A group's name is part of an index row.
const GROUP_BYTES: usize = 512;
/// The stage of a dead letter that a window has left out.
const LATE_STAGE: &str = "late";

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
    pub(super) dropped: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) events: i64,
    pub(super) dead: i64,
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
    pub(super) stage: &'static str,
    pub(super) rule: String,
    pub(super) field: Option<String>,
    pub(super) detail: String,
    pub(super) key: Option<Vec<u8>>,
    pub(super) raw: Option<Vec<u8>>,
}

/// One of the last events: the newest event time of its partition when it was read, and its group.
pub(super) type Recent = (Option<i64>, String);

/// What one transaction writes. Maps are ordered, so that two transactions lock rows in the same order.
#[derive(Debug, Default)]
pub(super) struct Folded {
    pub(super) advances: BTreeMap<i32, Advance>,
    pub(super) posts: Rows,
    /// By the window's position in the plan, its pane's start and its group.
    pub(super) windows: BTreeMap<(usize, i64, String), Counts>,
    /// By the window's position in the plan and the partition, oldest first.
    pub(super) recent: BTreeMap<(usize, i32), VecDeque<Recent>>,
    pub(super) dead: Vec<DeadLetter>,
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Folded {
    /// Whether nothing was read, not even that there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.advances.is_empty()
    }
}

/// The panes of one window: by start, then by group. Hashed, because every event looks here; ordered when handed out.
type Panes = HashMap<i64, HashMap<String, Counts>>;

/// Folds messages, batch after batch.
#[derive(Debug)]
pub(super) struct Folder {
    plan: Arc<Plan>,
    lateness_ms: i64,
    positions: BTreeMap<i32, Position>,
    /// One entry per window of the plan.
    panes: Vec<Panes>,
    newest: Newest,
    folded: Folded,
}

impl Folder {
    pub(super) fn new(plan: Arc<Plan>, positions: BTreeMap<i32, Position>) -> Self {
        let lateness_ms = i64::try_from(plan.definition.lateness.as_millis()).unwrap_or(i64::MAX);
        Self {
            panes: vec![Panes::new(); plan.windows.len()],
            plan,
            lateness_ms,
            positions,
            newest: Newest::default(),
            folded: Folded::default(),
        }
    }

    /// How much is folded since the last [`Folder::take`]: messages and bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.folded.messages, self.folded.bytes)
    }

    /// Whether there is nothing to hand out.
    pub(super) fn is_empty(&self) -> bool {
        self.folded.is_empty()
    }

    /// The next offset of a partition that is held.
    pub(super) fn next_offset(&self, partition: i32) -> Option<i64> {
        self.positions
            .get(&partition)
            .map(|position| position.next_offset)
    }

    /// Folds these partitions too, from now on.
    pub(super) fn add_partitions(&mut self, positions: BTreeMap<i32, Position>) {
        self.positions.extend(positions);
    }

    /// Passes over messages of these partitions, from now on. What is folded must have been taken.
    pub(super) fn remove_partitions(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.positions.remove(partition);
        }
    }

    /// Hands out the batch and starts the next one.
    pub(super) fn take(&mut self) -> Folded {
        let mut folded = std::mem::take(&mut self.folded);
        folded.posts = self.newest.take();
        for (window, panes) in self.panes.iter_mut().enumerate() {
            for (start, groups) in panes.drain() {
                let counted = groups
                    .into_iter()
                    .map(|(group, counts)| ((window, start, group), counts));
                folded.windows.extend(counted);
            }
        }
        folded
    }

    /// Moves a partition to an offset before which nothing is left to read: transaction markers and aborted records
    /// are offsets without messages.
    pub(super) fn reach(&mut self, partition: i32, offset: i64) {
        let Some(position) = self.positions.get_mut(&partition) else {
            return;
        };
        if offset <= position.next_offset {
            return;
        }
        let advance = advance_of(&mut self.folded.advances, partition, position);
        position.next_offset = offset;
        advance.next_offset = offset;
    }

    /// Adds one message. Messages before the position, and of partitions that are not held, are passed over.
    pub(super) fn add(&mut self, message: Message<'_>, now_ms: i64) {
        let Some(position) = self.positions.get_mut(&message.partition) else {
            return;
        };
        if message.offset < position.next_offset {
            return;
        }
        let plan = &*self.plan;
        let timestamp_ms = message.timestamp_ms.filter(is_time);
        let cleaned = plan
            .dataset
            .clean(message.value)
            .and_then(|row| keyed(plan, row));
        let event_ms = match (plan.event_time, &cleaned) {
            (None, _) => timestamp_ms,
            // When a message that cannot be read happened is not known. It is counted where it arrived, and moves nothing.
            (Some(_), Err(_)) => timestamp_ms,
            (Some(column), Ok((_, row))) => time_of(&row.values[column])
                .filter(is_time)
                .or(timestamp_ms),
        };
        let moves_watermark = plan.event_time.is_none() || cleaned.is_ok();

        let advance = advance_of(&mut self.folded.advances, message.partition, position);
        let watermark_before = position.watermark_ms;
        position.next_offset = message.offset + 1;
        if let Some(time) =
            event_ms.filter(|time| moves_watermark && *time <= now_ms.saturating_add(FUTURE_MS))
        {
            position.watermark_ms = position.watermark_ms.max(Some(time - self.lateness_ms));
        }
        advance.next_offset = position.next_offset;
        advance.watermark_ms = position.watermark_ms;
        advance.events += 1;
        self.folded.messages += 1;
        self.folded.bytes +=
            message.value.map_or(0, <[u8]>::len) + message.key.map_or(0, <[u8]>::len);

        let letter = |stage, rule, field, detail| DeadLetter {
            partition: message.partition,
            offset: message.offset,
            timestamp_ms,
            stage,
            rule,
            field,
            detail,
            key: message.key.map(<[u8]>::to_vec),
            raw: message.value.map(<[u8]>::to_vec),
        };
        let seen_ms = position
            .watermark_ms
            .map(|watermark| watermark.saturating_add(self.lateness_ms));
        match cleaned {
            Ok((key, row)) => {
                let mut counted = Counted::default();
                for (number, (window, panes)) in
                    plan.windows.iter().zip(&mut self.panes).enumerate()
                {
                    match window.span {
                        WindowSpan::Panes { .. } => {
                            let Some(time) = event_ms else { continue };
                            counted.see(number, count(panes, window, &row, time, watermark_before));
                        }
                        WindowSpan::Last(most) => {
                            let place = (number, message.partition);
                            let last = self.folded.recent.entry(place).or_default();
                            if last.len() == most {
                                last.pop_front();
                            }
                            last.push_back((seen_ms, group_of(window, &row).to_owned()));
                        }
                    }
                }
                advance.late += i64::from(counted.is_late);
                advance.dropped += i64::from(counted.is_dropped);
                if let Some(number) = counted.dead_letter_of {
                    let window = &plan.windows[number].name;
                    let detail = format!("it came after the window `{window}` had closed for good");
                    let letter = letter(LATE_STAGE, format!("late:{window}"), None, detail);
                    self.folded.dead.push(letter);
                }
                if let Some(key) = key {
                    let place = (message.partition, message.offset, timestamp_ms);
                    self.newest.keep(&plan.dataset, key, &row.values, place);
                }
            }
            Err(Rejected {
                stage,
                rule,
                detail,
                field,
            }) => {
                advance.dead += 1;
                for (window, panes) in plan.windows.iter().zip(&mut self.panes) {
                    let (None, Some(time)) = (window.by, event_ms) else {
                        continue;
                    };
                    let Some((start, _)) = open_pane(window, time, watermark_before) else {
                        continue;
                    };
                    let groups = panes.entry(start).or_default();
                    groups.entry(String::new()).or_default().dead += 1;
                }
                self.folded
                    .dead
                    .push(letter(stage.word(), rule, field, detail));
            }
        }
    }
}

fn advance_of<'a>(
    advances: &'a mut BTreeMap<i32, Advance>,
    partition: i32,
    position: &Position,
) -> &'a mut Advance {
    advances.entry(partition).or_insert_with(|| Advance {
        from_offset: position.next_offset,
        next_offset: position.next_offset,
        watermark_ms: position.watermark_ms,
        events: 0,
        dead: 0,
        late: 0,
        dropped: 0,
    })
}

fn is_time(milliseconds: &i64) -> bool {
    (0..=LAST_MS).contains(milliseconds)
}

/// The time that a column holds, in milliseconds since 1970.
fn time_of(cell: &Cell) -> Option<i64> {
    match cell {
        Cell::Integer(milliseconds) => Some(*milliseconds),
        Cell::Timestamp(microseconds) => Some(microseconds.div_euclid(1_000)),
        Cell::Text(text) => DateTime::parse_from_rfc3339(text)
            .map(|time| time.timestamp_millis())
            .or_else(|_| {
                // A time without a zone is UTC.
                ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"]
                    .iter()
                    .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
                    .map(|time| time.and_utc().timestamp_millis())
                    .ok_or(())
            })
            .ok(),
        Cell::Null | Cell::Float(_) | Cell::Boolean(_) | Cell::TextList(_) | Cell::Json(_) => None,
    }
}

/// The key of a row as text, where the stream keeps posts.
fn keyed(plan: &Plan, row: Row) -> Result<(Option<String>, Row), Rejected> {
    if plan.posts.is_none() {
        return Ok((None, row));
    }
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
    Ok((Some(key), row))
}

/// What became of one event in one window of event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    OnTime,
    Late,
    Dropped,
    DroppedToDeadLetters,
}

/// What became of one event in all of them.
#[derive(Default)]
struct Counted {
    is_late: bool,
    is_dropped: bool,
    dead_letter_of: Option<usize>,
}

impl Counted {
    fn see(&mut self, window: usize, outcome: Outcome) {
        match outcome {
            Outcome::OnTime => {}
            Outcome::Late => self.is_late = true,
            Outcome::Dropped => (self.is_late, self.is_dropped) = (true, true),
            Outcome::DroppedToDeadLetters => {
                (self.is_late, self.is_dropped) = (true, true);
                self.dead_letter_of.get_or_insert(window);
            }
        }
    }
}

/// The start of an event's pane, and whether the event is late for the first window that holds it. `None` when all windows
/// that hold it have closed for good.
fn open_pane(window: &Window, time: i64, watermark: Option<i64>) -> Option<(i64, bool)> {
    let WindowSpan::Panes {
        slide_ms,
        length_ms,
    } = window.span
    else {
        return None;
    };
    let start = time - time.rem_euclid(slide_ms);
    let Some(watermark) = watermark else {
        return Some((start, false));
    };
    // What is kept for long enough is deleted; a pane that an event made anew would count that event alone.
    let allowed = match (window.late, window.keep) {
        (Late::Count, Keep::Forever) => return Some((start, start + slide_ms <= watermark)),
        (Late::Count, Keep::For(allowed))
        | (Late::Drop(allowed) | Late::DeadLetter(allowed), _) => {
            i64::try_from(allowed.as_millis()).unwrap_or(i64::MAX)
        }
    };
    let is_over = (start + length_ms).saturating_add(allowed) <= watermark;
    (!is_over).then_some((start, start + slide_ms <= watermark))
}

/// Adds an event to its pane.
fn count(
    panes: &mut Panes,
    window: &Window,
    row: &Row,
    time: i64,
    watermark: Option<i64>,
) -> Outcome {
    let Some((start, is_late)) = open_pane(window, time, watermark) else {
        return match window.late {
            Late::DeadLetter(_) => Outcome::DroppedToDeadLetters,
            Late::Count | Late::Drop(_) => Outcome::Dropped,
        };
    };
    let groups = panes.entry(start).or_default();
    let group = group_of(window, row);
    let counts = match groups.get_mut(group) {
        Some(counts) => counts,
        None => groups.entry(group.to_owned()).or_default(),
    };
    counts.events += 1;
    if let Some(Cell::Integer(value)) = window.follow.map(|follow| &row.values[follow]) {
        counts.followed += 1;
        counts.sum += i128::from(*value);
        counts.max = counts.max.max(Some(*value));
    }
    if is_late {
        counts.late += 1;
        return Outcome::Late;
    }
    Outcome::OnTime
}

fn group_of<'r>(window: &Window, row: &'r Row) -> &'r str {
    match window.by.map(|by| &row.values[by]) {
        Some(Cell::Text(text)) => &text[..text.floor_char_boundary(GROUP_BYTES)],
        None
        | Some(
            Cell::Null
            | Cell::Integer(_)
            | Cell::Float(_)
            | Cell::Boolean(_)
            | Cell::Timestamp(_)
            | Cell::TextList(_)
            | Cell::Json(_),
        ) => "",
    }
}
