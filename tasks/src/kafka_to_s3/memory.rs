//! What a landing may keep in memory, and how it is shared out. Where objects are cut never depends on it.
//!
//! Of `memory_mb` an eighth is what Kafka clients read ahead; the rest is for objects, from their first record until they are
//! written. An object that is filled has all that it may come to set aside beforehand, or partitions that are half filled would
//! wait for each other; once it is encoded only its bytes count.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::landing::{ChunkLimits, encoder::ROW_GROUP_BYTES};

/// What `memory_mb` is unless the task says otherwise.
pub(super) const DEFAULT_MB: u64 = 256;
/// Room for an object of the usual size.
pub(super) const LEAST_MB: u64 = 64;
/// More is a typing error.
pub(super) const MOST_MB: u64 = 1024 * 1024;

/// Partitions that are read at the same time. Each has a client of its own, which costs threads.
const MOST_READERS: u64 = 64;
/// A client reads ahead so many kilobytes, at least and at most.
const AHEAD_OF_ONE_KB: (u64, u64) = (1024, 4096);
/// What a client takes for each byte that it reads ahead: messages in the queue, and what they were decompressed from.
const COST_OF_AHEAD: u64 = 2;
/// The row group that is filled, and its encoded pages.
const BESIDE_THE_BODY: u64 = 2 * ROW_GROUP_BYTES;

/// The memory of one landing.
#[derive(Debug)]
pub(super) struct Memory {
    /// Kilobytes.
    objects: Arc<Semaphore>,
    /// What is set aside for an object that is filled.
    one_kb: u32,
    /// Partitions that may be read at once.
    pub(super) readers: usize,
    /// What each client may read ahead, in kilobytes.
    pub(super) ahead_kb: u64,
    comparing: Mutex<()>,
}

/// What is set aside for one object. Given back when dropped.
#[derive(Debug)]
pub(super) struct Held(OwnedSemaphorePermit);

impl Memory {
    /// Shares `memory_mb` between the objects and the clients of so many partitions that have something to read.
    pub(super) fn new(memory_mb: u64, limits: ChunkLimits, partitions: usize) -> Self {
        let ahead_kb = ahead_kb(memory_mb) / COST_OF_AHEAD;
        let readers = (ahead_kb / AHEAD_OF_ONE_KB.0)
            .clamp(1, MOST_READERS)
            .min(partitions.max(1) as u64);
        let objects_kb = kilobytes(objects_kb(memory_mb));
        Self {
            objects: Arc::new(Semaphore::new(objects_kb as usize)),
            // A plan may have been made under other settings: one object always fits.
            one_kb: kilobytes(one_kb(limits)).min(objects_kb),
            readers: usize::try_from(readers).unwrap_or(1),
            ahead_kb: (ahead_kb / readers).clamp(AHEAD_OF_ONE_KB.0, AHEAD_OF_ONE_KB.1),
            comparing: Mutex::new(()),
        }
    }

    /// Waits until nobody else compares two objects: both are in memory as a whole then, and not counted.
    pub(super) async fn comparing(&self) -> MutexGuard<'_, ()> {
        self.comparing.lock().await
    }

    /// Waits until there is room for one more object; `None` when the landing is over.
    pub(super) async fn room(&self) -> Option<Held> {
        let permit = Arc::clone(&self.objects).acquire_many_owned(self.one_kb);
        permit.await.ok().map(Held)
    }
}

impl Held {
    /// Gives back what an object of `bytes` bytes does not need.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.0.num_permits().saturating_sub(bytes.div_ceil(1024));
        drop(self.0.split(surplus));
    }
}

/// The `memory_mb` that objects of this size need at least.
pub(super) fn least_mb(limits: ChunkLimits) -> u64 {
    // The share of objects is seven eighths.
    (one_kb(limits).saturating_mul(8).div_ceil(7))
        .div_ceil(1024)
        .max(LEAST_MB)
}

fn ahead_kb(memory_mb: u64) -> u64 {
    memory_mb.saturating_mul(1024) / 8
}

fn objects_kb(memory_mb: u64) -> u64 {
    memory_mb.saturating_mul(1024) - ahead_kb(memory_mb)
}

/// All that an object may come to: records that nothing shortens.
fn one_kb(limits: ChunkLimits) -> u64 {
    limits.bytes.saturating_add(BESIDE_THE_BODY).div_ceil(1024)
}

fn kilobytes(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MB: u64 = 1024 * 1024;

    fn of(memory_mb: u64, bytes: u64, partitions: usize) -> Memory {
        let limits = ChunkLimits {
            bytes,
            ..ChunkLimits::default()
        };
        Memory::new(memory_mb, limits, partitions)
    }

    fn objects_at_once(memory: &Memory) -> usize {
        std::iter::from_fn(|| memory.room().now_or_never().flatten())
            .collect::<Vec<_>>()
            .len()
    }

    #[test]
    fn the_whole_is_never_more_than_what_was_given() {
        for memory_mb in [64, 100, 256, 5_000] {
            for partitions in [1, 4, 64, 10_000] {
                let memory = of(memory_mb, 32 * MB, partitions);
                let objects = objects_at_once(&memory) as u64 * u64::from(memory.one_kb);
                let ahead = memory.readers as u64 * memory.ahead_kb * COST_OF_AHEAD;
                assert!(objects + ahead <= memory_mb * 1024, "{memory:?}");
                assert!(memory.readers <= partitions && memory.ahead_kb >= 1024);
            }
        }
    }

    #[test]
    fn as_usual_five_objects_are_filled_and_sixteen_partitions_read_at_once() {
        let memory = of(DEFAULT_MB, ChunkLimits::default().bytes, 64);
        assert_eq!(objects_at_once(&memory), 5);
        assert_eq!((memory.readers, memory.ahead_kb), (16, 1024));
        let few = of(DEFAULT_MB, ChunkLimits::default().bytes, 4);
        assert_eq!((few.readers, few.ahead_kb), (4, 4096));
    }

    #[test]
    fn an_object_that_waits_for_the_store_makes_room() {
        let memory = of(64, 32 * MB, 4);
        let mut first = memory.room().now_or_never().flatten().expect("room");
        assert!(memory.room().now_or_never().is_none());
        first.shrink_to(usize::try_from(10 * MB).expect("small"));
        let second = memory.room().now_or_never().flatten().expect("room again");
        first.shrink_to(usize::try_from(40 * MB).expect("small"));
        drop((first, second));
        assert_eq!(objects_at_once(&memory), 1);
    }

    #[test]
    fn an_object_of_a_plan_made_under_other_settings_fits_alone() {
        assert_eq!(objects_at_once(&of(64, 900 * MB, 4)), 1);
    }

    #[test]
    fn what_is_needed_at_least_is_enough() {
        for bytes in [1, 32 * MB, 700 * MB] {
            let limits = ChunkLimits { bytes, records: 9 };
            assert!(objects_kb(least_mb(limits)) >= one_kb(limits));
        }
        assert_eq!(least_mb(ChunkLimits::default()), LEAST_MB);
    }
}
