//! Where one object ends and the next begins.

use serde::{Deserialize, Serialize};

/// An object is closed by the record that reaches one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkLimits {
    /// Bytes of keys, values and headers, before compression.
    pub bytes: u64,
    /// Records; bounds the memory of a range of tombstones.
    pub records: u64,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self {
            bytes: 32 * 1024 * 1024,
            records: 250_000,
        }
    }
}

/// What to do after a record was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The next record belongs to the same object.
    Continue,
    /// This record is the last of its object.
    Close,
}

/// Cuts one partition's records into objects. It sees nothing but the size of every record, in order, so the same
/// records are cut the same way on every attempt.
#[derive(Debug)]
pub struct Chunker {
    limits: ChunkLimits,
    bytes: u64,
    records: u64,
}

impl Chunker {
    /// A chunker at the start of an object.
    pub fn new(limits: ChunkLimits) -> Self {
        Self {
            limits,
            bytes: 0,
            records: 0,
        }
    }

    /// Takes a record of `bytes` bytes (key, value and headers).
    pub fn take(&mut self, bytes: u64) -> Cut {
        self.bytes += bytes;
        self.records += 1;
        if self.bytes < self.limits.bytes && self.records < self.limits.records {
            return Cut::Continue;
        }
        self.bytes = 0;
        self.records = 0;
        Cut::Close
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(limits: ChunkLimits, sizes: &[u64]) -> Vec<Vec<u64>> {
        let mut chunker = Chunker::new(limits);
        let mut chunks = Vec::new();
        let mut open = Vec::new();
        for size in sizes {
            open.push(*size);
            if chunker.take(*size) == Cut::Close {
                chunks.push(std::mem::take(&mut open));
            }
        }
        if !open.is_empty() {
            chunks.push(open);
        }
        chunks
    }

    #[test]
    fn the_record_that_reaches_a_limit_closes_its_object() {
        let limits = ChunkLimits {
            bytes: 10,
            records: 3,
        };
        assert_eq!(
            cut(limits, &[4, 5, 1, 20, 0, 0, 0, 0]),
            [vec![4, 5, 1], vec![20], vec![0, 0, 0], vec![0]]
        );
    }

    proptest! {
        #[test]
        fn chunks_cover_the_records_exactly_and_only_a_last_one_may_be_short(
            bytes in 1_u64..500, records in 1_u64..20, sizes in prop::collection::vec(0_u64..300, 0..200),
        ) {
            let limits = ChunkLimits { bytes, records };
            let chunks = cut(limits, &sizes);
            prop_assert_eq!(chunks.concat(), sizes);
            for (index, chunk) in chunks.iter().enumerate() {
                prop_assert!(!chunk.is_empty());
                let full = chunk.iter().sum::<u64>() >= bytes || chunk.len() as u64 >= records;
                prop_assert!(full || index + 1 == chunks.len());
                let without_last = &chunk[..chunk.len() - 1];
                prop_assert!(without_last.iter().sum::<u64>() < bytes && (without_last.len() as u64) < records);
            }
        }

        #[test]
        fn reading_on_from_a_chunk_border_cuts_as_reading_in_one_go_does(
            bytes in 1_u64..500, records in 1_u64..20, sizes in prop::collection::vec(0_u64..300, 1..200),
        ) {
            let limits = ChunkLimits { bytes, records };
            let whole = cut(limits, &sizes);
            let rest = cut(limits, &sizes[whole[0].len()..]);
            prop_assert_eq!(&whole[1..], &rest[..]);
        }
    }
}
