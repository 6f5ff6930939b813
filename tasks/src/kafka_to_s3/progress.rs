//! How far a landing is, for whoever watches its log.

use std::{
    pin::Pin,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::{Context, landing::Plan};

/// The first line comes after a second, so that a short landing has one too.
const FIRST: Duration = Duration::from_secs(1);
/// Lines come this far apart in the first minute, and then
const SOON: Duration = Duration::from_secs(5);
/// this far, so that the log of a landing of hours can still be read.
const LATER: Duration = Duration::from_secs(30);
const A_MINUTE: Duration = Duration::from_secs(60);

/// Is told by all readers and writers of a landing.
#[derive(Debug)]
pub(super) struct Progress {
    /// By partition, those that have something to read.
    partitions: Vec<Position>,
    records: AtomicU64,
    objects: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Debug)]
struct Position {
    partition: i32,
    start: i64,
    end: i64,
    next: AtomicI64,
}

/// What a line compares itself with.
#[derive(Debug, Clone, Copy, Default)]
struct Before {
    after: Duration,
    records: u64,
}

impl Progress {
    /// Of a plan of which nothing is read.
    pub(super) fn of(plan: &Plan) -> Self {
        let mut partitions: Vec<_> = plan
            .ranges
            .iter()
            .filter(|range| !range.is_empty())
            .map(|range| Position {
                partition: range.partition,
                start: range.start,
                end: range.end,
                next: AtomicI64::new(range.start),
            })
            .collect();
        partitions.sort_by_key(|position| position.partition);
        Self {
            partitions,
            records: AtomicU64::new(0),
            objects: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Partitions that have something to read.
    pub(super) fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// `records` more were read of a partition, of which `next` is read next.
    pub(super) fn read(&self, partition: i32, records: u64, next: i64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        let found = self
            .partitions
            .binary_search_by_key(&partition, |position| position.partition);
        if let Ok(index) = found {
            self.partitions[index].next.store(next, Ordering::Relaxed);
        }
    }

    /// An object of `bytes` bytes was written.
    pub(super) fn wrote(&self, bytes: u64) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A line for people, `after` the beginning.
    fn line(&self, after: Duration, before: Before) -> String {
        let (mut done, mut total) = (0_i64, 0_i64);
        let mut behind: Option<(i64, &Position)> = None;
        for position in &self.partitions {
            let next = position.next.load(Ordering::Relaxed);
            let next = next.clamp(position.start, position.end);
            done += next - position.start;
            total += position.end - position.start;
            let left = position.end - next;
            if left > behind.map_or(0, |(most, _)| most) {
                behind = Some((left, position));
            }
        }
        let records = self.records.load(Ordering::Relaxed);
        let rate = per_second(
            records.saturating_sub(before.records),
            after.saturating_sub(before.after),
        );
        let share = if total == 0 { 100 } else { done * 100 / total };
        let mut line = format!(
            "read {records} records, {share} % of {total} offsets, {rate} a second; wrote {} objects ({} bytes)",
            self.objects.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        );
        if let Some((left, position)) = behind.filter(|_| self.partitions.len() > 1) {
            line.push_str(&format!(
                "; partition {} has most left, {left} of {} offsets",
                position.partition,
                position.end - position.start
            ));
        }
        line
    }
}

/// Waits for `landing`, and writes a line now and then.
pub(super) async fn told<T>(
    context: &Context,
    progress: &Progress,
    mut landing: Pin<&mut impl Future<Output = T>>,
) -> T {
    let began = Instant::now();
    let mut before = Before::default();
    loop {
        let next = began + before.after + pause(before.after);
        tokio::select! {
            biased;
            landed = &mut landing => return landed,
            () = sleep_until(next) => {
                let after = began.elapsed();
                context.log.say(progress.line(after, before)).await;
                before = Before { after, records: progress.records.load(Ordering::Relaxed) };
            }
        }
    }
}

/// How long after a line the next one comes.
fn pause(after: Duration) -> Duration {
    if after.is_zero() {
        FIRST
    } else if after < A_MINUTE {
        SOON
    } else {
        LATER
    }
}

fn per_second(records: u64, within: Duration) -> u64 {
    let milliseconds = within.as_millis().max(1);
    u64::try_from(u128::from(records) * 1_000 / milliseconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::landing::{ChunkLimits, PlannedRange};

    fn progress(ranges: &[(i32, i64, i64)]) -> Progress {
        Progress::of(&Plan {
            plan_id: String::new(),
            topic: "pins".to_owned(),
            bucket: "lake".to_owned(),
            prefix: "raw".to_owned(),
            logical_date: DateTime::UNIX_EPOCH,
            chunk: ChunkLimits::default(),
            ranges: ranges
                .iter()
                .map(|(partition, start, end)| PlannedRange {
                    partition: *partition,
                    cursor: *start,
                    start: *start,
                    end: *end,
                })
                .collect(),
            tails: Vec::new(),
        })
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_line_says_how_much_how_fast_and_who_is_behind() {
        let progress = progress(&[(0, 100, 1_100), (3, 0, 3_000), (7, 9, 9)]);
        assert_eq!(progress.partitions(), 2);
        progress.read(0, 900, 1_000);
        progress.read(3, 500, 500);
        progress.wrote(70_000);
        assert_eq!(
            progress.line(SECOND, Before::default()),
            "read 1400 records, 35 % of 4000 offsets, 1400 a second; wrote 1 objects (70000 bytes); \
             partition 3 has most left, 2500 of 3000 offsets"
        );
        let before = Before {
            after: SECOND,
            records: 1_400,
        };
        progress.read(0, 100, 1_100);
        progress.read(3, 1_500, 3_000);
        assert_eq!(
            progress.line(6 * SECOND, before),
            "read 3000 records, 100 % of 4000 offsets, 320 a second; wrote 1 objects (70000 bytes)"
        );
    }

    #[test]
    fn one_partition_is_not_named() {
        let progress = progress(&[(0, 0, 10)]);
        let line = progress.line(SECOND, Before::default());
        assert!(line.ends_with("wrote 0 objects (0 bytes)"), "{line}");
    }

    #[test]
    fn lines_come_after_a_second_then_every_five_and_later_every_thirty() {
        let mut after = Duration::ZERO;
        let mut lines = Vec::new();
        while after < Duration::from_secs(120) {
            after += pause(after);
            lines.push(after.as_secs());
        }
        assert_eq!(
            lines,
            [1, 6, 11, 16, 21, 26, 31, 36, 41, 46, 51, 56, 61, 91, 121]
        );
    }
}
