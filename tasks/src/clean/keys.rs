//! Which rows of a landing are the latest of their key, in bounded memory: the keys are split on a hash into partitions, and each
//! partition is looked at by itself. Rows stay where they are; a row that came again is marked by a bit.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

use super::spill::{Extent, Spill};
use crate::dataset::{Dataset, Value};

/// A partition holds about so many keys: 25 MB while it is looked at, 50 MB at worst.
const KEYS_PER_PARTITION: u64 = 500_000;
const MOST_PARTITIONS: u64 = 4_096;
/// What waits in memory before it is written, over all partitions, as long as that is [`LEAST_BUFFER`] for each.
const BUFFERS: usize = 32 << 20;
const LEAST_BUFFER: usize = 16 << 10;
const ENTRY_BYTES: usize = 36;

/// A key in 16 bytes: exact where it fits, a cryptographic hash where it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(u128);

impl Key {
    /// The key of a row; `None` for what the contract does not let be a key.
    pub(super) fn of(dataset: &Dataset, value: &Value<'_>) -> Option<Self> {
        match value {
            Value::Integer(number) => Some(Self(u128::from(number.cast_unsigned()))),
            Value::Text(text) if dataset.key_is_uuid() => uuid(text).map(Self),
            Value::Text(text) => Some(Self(packed(text.as_bytes()))),
            Value::Null
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Timestamp(_)
            | Value::Tags(_)
            | Value::Json(_) => None,
        }
    }
}

fn uuid(text: &str) -> Option<u128> {
    text.bytes()
        .filter(|byte| *byte != b'-')
        .try_fold(0, |number: u128, byte| {
            let digit = char::from(byte).to_digit(16)?;
            Some(number << 4 | u128::from(digit))
        })
}

/// Up to 15 bytes and their number, or a hash whose last byte is no such number.
fn packed(text: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    if text.len() < bytes.len() {
        bytes[..text.len()].copy_from_slice(text);
        bytes[15] = text.len() as u8;
    } else {
        bytes.copy_from_slice(&Sha256::digest(text)[..16]);
        bytes[15] = u8::MAX;
    }
    u128::from_le_bytes(bytes)
}

/// The key of one row, and where the row is in its chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keyed {
    pub(super) key: Key,
    pub(super) offset: i64,
    pub(super) row: u32,
}

/// A row of the landing: its chunk, and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) chunk: u32,
    pub(super) row: u32,
}

/// The keys of a landing.
#[derive(Debug)]
pub(super) struct Keys {
    partitions: Vec<Mutex<Partition>>,
    /// Seeded anew in every process, so that nobody can choose keys that all fall into one partition.
    hasher: RandomState,
    buffer: usize,
    spill: Arc<Spill>,
}

#[derive(Debug, Default)]
struct Partition {
    buffer: Vec<u8>,
    written: Vec<Extent>,
}

impl Keys {
    /// For a landing of about so many records.
    pub(super) fn new(records: u64, spill: Arc<Spill>) -> Self {
        Self::with_partitions(
            records
                .div_ceil(KEYS_PER_PARTITION)
                .clamp(1, MOST_PARTITIONS),
            spill,
        )
    }

    fn with_partitions(count: u64, spill: Arc<Spill>) -> Self {
        let partitions: Vec<_> = (0..count).map(|_| Mutex::default()).collect();
        Self {
            buffer: (BUFFERS / partitions.len().max(1)).max(LEAST_BUFFER),
            partitions,
            hasher: RandomState::new(),
            spill,
        }
    }

    /// How many partitions there are.
    pub(super) fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// Adds the keys of a chunk, all from one Kafka partition.
    pub(super) fn add(&self, chunk: u32, kafka_partition: i32, keys: &[Keyed]) -> io::Result<()> {
        let mut split: Vec<Vec<u8>> = vec![Vec::new(); self.partitions.len()];
        for Keyed { key, offset, row } in keys {
            let hash = self.hasher.hash_one(key.0);
            // The remainder is below the number of partitions, which is a `usize`.
            let partition = (hash % self.partitions.len() as u64) as usize;
            let entry = &mut split[partition];
            entry.extend_from_slice(&key.0.to_le_bytes());
            entry.extend_from_slice(&offset.to_le_bytes());
            entry.extend_from_slice(&kafka_partition.to_le_bytes());
            entry.extend_from_slice(&chunk.to_le_bytes());
            entry.extend_from_slice(&row.to_le_bytes());
        }
        for (partition, entries) in self.partitions.iter().zip(split) {
            let mut partition = partition.lock().unwrap_or_else(PoisonError::into_inner);
            partition.buffer.extend_from_slice(&entries);
            if partition.buffer.len() >= self.buffer {
                let extent = self
                    .spill
                    .append(std::iter::once(partition.buffer.as_slice()))?;
                partition.written.push(extent);
                partition.buffer.clear();
            }
        }
        Ok(())
    }

    /// The rows of one partition of keys whose key came again: of two rows the one with the higher offset stays, and at one offset the one
    /// of the higher Kafka partition.
    pub(super) fn superseded(&self, partition: usize) -> io::Result<Vec<Place>> {
        let Partition { buffer, written } = std::mem::take(
            &mut *self.partitions[partition]
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let mut latest: HashMap<u128, (i64, i32, Place)> = HashMap::new();
        let mut superseded = Vec::new();
        let mut look = |entries: &[u8]| {
            for entry in entries.chunks_exact(ENTRY_BYTES) {
                let (key, rank) = decode(entry);
                match latest.entry(key) {
                    Entry::Vacant(free) => {
                        free.insert(rank);
                    }
                    Entry::Occupied(mut taken) => {
                        let earlier = *taken.get();
                        let (stays, goes) = if (earlier.0, earlier.1) > (rank.0, rank.1) {
                            (earlier, rank)
                        } else {
                            (rank, earlier)
                        };
                        superseded.push(goes.2);
                        taken.insert(stays);
                    }
                }
            }
        };
        for extent in written {
            look(&self.spill.read(extent)?);
        }
        look(&buffer);
        Ok(superseded)
    }
}

fn decode(entry: &[u8]) -> (u128, (i64, i32, Place)) {
    fn bytes<const N: usize>(entry: &[u8], at: usize) -> [u8; N] {
        std::array::from_fn(|index| entry[at + index])
    }
    let place = Place {
        chunk: u32::from_le_bytes(bytes(entry, 28)),
        row: u32::from_le_bytes(bytes(entry, 32)),
    };
    let offset = i64::from_le_bytes(bytes(entry, 16));
    let kafka_partition = i32::from_le_bytes(bytes(entry, 24));
    (
        u128::from_le_bytes(bytes(entry, 0)),
        (offset, kafka_partition, place),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn however_keys_are_split_the_latest_row_of_each_stays(
            rows in prop::collection::vec((0_i64..40, 0_i32..3), 0..200),
            partitions in 1_u64..9,
        ) {
            let spill = Arc::new(Spill::default());
            let mut keys = Keys::with_partitions(partitions, spill);
            // So small that every chunk is written out.
            keys.buffer = 1;
            let mut expected: BTreeMap<i64, (i64, i32, Place)> = BTreeMap::new();
            for (row, (key, kafka_partition)) in rows.iter().enumerate() {
                let place = Place { chunk: u32::try_from(row / 7).expect("few"), row: u32::try_from(row).expect("few") };
                let offset = i64::try_from(row).expect("few") * 31 % 97;
                let keyed = Keyed { key: Key(u128::from(key.cast_unsigned())), offset, row: place.row };
                keys.add(place.chunk, *kafka_partition, &[keyed]).expect("the file is written");
                let rank = (offset, *kafka_partition, place);
                let latest = expected.entry(*key).or_insert(rank);
                if (latest.0, latest.1) <= (rank.0, rank.1) {
                    *latest = rank;
                }
            }
            let mut superseded = Vec::new();
            for partition in 0..keys.partitions() {
                superseded.extend(keys.superseded(partition).expect("the file is read"));
            }
            superseded.sort_unstable();
            let mut others: Vec<Place> = (0..rows.len())
                .map(|row| Place { chunk: u32::try_from(row / 7).expect("few"), row: u32::try_from(row).expect("few") })
                .filter(|place| expected.values().all(|(_, _, latest)| latest != place))
                .collect();
            others.sort_unstable();
            prop_assert_eq!(superseded, others);
        }
    }

    #[test]
    fn keys_of_every_length_are_told_apart() {
        let texts = [
            "",
            "a",
            "a\0",
            "fifteen letters",
            "sixteen letters!",
            "sixteen letters?",
        ];
        let mut seen: Vec<u128> = texts.iter().map(|text| packed(text.as_bytes())).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), texts.len());
        assert_eq!(
            uuid("fbe53c66-3442-4773-b19e-d3ec6f54dddf"),
            Some(0xfbe5_3c66_3442_4773_b19e_d3ec_6f54_dddf)
        );
    }
}
