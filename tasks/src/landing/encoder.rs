//! One object while it is filled. Records are encoded as they come, a few megabytes at a time, so that an open object costs
//! little more than its compressed bytes.
//!
//! Where a row group ends depends on nothing but the records, as everything about an object does.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use polars::{io::parquet::write::BatchedWriter, prelude::PolarsResult};

use super::columns::{self, Columns, Record};

/// A row group is closed by the record that reaches this. Pages, and so the compression, are those of larger row groups: Polars
/// cuts pages at 1 MiB.
pub const ROW_GROUP_BYTES: u64 = 4 * 1024 * 1024;
/// What a record takes in memory beside its bytes: offset, timestamp, two views, the number of its headers.
const RECORD_BYTES: u64 = 64;
/// What a header takes beside its bytes: two views.
const HEADER_BYTES: u64 = 32;

/// An object that is being filled.
pub struct Encoder {
    open: Columns,
    open_bytes: u64,
    writer: BatchedWriter<Sink>,
    body: Sink,
    records: u64,
    first_offset: Option<i64>,
    last: Option<Last>,
}

/// An object that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The Parquet file.
    pub body: Vec<u8>,
    /// Its records; never none.
    pub records: u64,
    /// The offset of its first record.
    pub first_offset: i64,
    /// Its last record.
    pub last: Last,
}

/// The record that ends an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    /// Its offset.
    pub offset: i64,
    /// Its [`Record::fingerprint`].
    pub fingerprint: String,
}

impl Encoder {
    /// An object without records.
    ///
    /// # Errors
    /// Polars refuses the columns.
    pub fn new() -> PolarsResult<Self> {
        let body = Sink::default();
        let schema = Columns::default().finish()?.schema().clone();
        Ok(Self {
            open: Columns::default(),
            open_bytes: 0,
            writer: columns::writer(body.clone())?.batched(&schema)?,
            body,
            records: 0,
            first_offset: None,
            last: None,
        })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// Polars cannot write the row group that this record closes.
    pub fn push(&mut self, record: &Record<'_>) -> PolarsResult<()> {
        self.first_offset.get_or_insert(record.offset);
        self.records += 1;
        self.open_bytes +=
            record.payload_bytes() + RECORD_BYTES + HEADER_BYTES * record.headers.len() as u64;
        self.open.push(record);
        if self.open_bytes < ROW_GROUP_BYTES {
            return Ok(());
        }
        self.close_row_group()
    }

    /// Completes the object; `None` when it has no records.
    ///
    /// # Errors
    /// Polars cannot write it.
    pub fn finish(mut self) -> PolarsResult<Option<Encoded>> {
        self.close_row_group()?;
        let (Some(first_offset), Some(last)) = (self.first_offset, self.last) else {
            return Ok(None);
        };
        self.writer.finish()?;
        let mut body = self.body.take();
        // It may wait for the store, and has grown by doubling.
        body.shrink_to_fit();
        Ok(Some(Encoded {
            body,
            records: self.records,
            first_offset,
            last,
        }))
    }

    fn close_row_group(&mut self) -> PolarsResult<()> {
        let Some(last) = self.open.last() else {
            return Ok(());
        };
        self.last = Some(Last {
            offset: last.offset,
            fingerprint: last.fingerprint(),
        });
        self.open_bytes = 0;
        self.writer
            .write_batch(&std::mem::take(&mut self.open).finish()?)
    }
}

/// What is written so far. The writer keeps its end to itself, so both hold one.
#[derive(Debug, Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::landing::columns::{Likeness, compare, decode};

    /// Records of `bytes` bytes that no compression shortens much.
    fn encode(count: u32, bytes: u32) -> Encoded {
        let mut encoder = Encoder::new().expect("the columns are fine");
        for number in 0..count {
            let value: Vec<u8> = (0..bytes / 4)
                .flat_map(|word| {
                    (number * 7_919 + word)
                        .wrapping_mul(2_654_435_761)
                        .to_be_bytes()
                })
                .collect();
            let record = Record {
                offset: i64::from(number) * 2,
                timestamp: Some(5),
                key: None,
                value: (number % 5 != 0).then_some(&value),
                headers: vec![("name", Some(b"value".as_slice())); number as usize % 2],
            };
            encoder.push(&record).expect("it is written");
        }
        encoder.finish().expect("it is written").expect("records")
    }

    #[test]
    fn the_same_records_are_the_same_bytes_over_several_row_groups() {
        let (one, other) = (encode(500, 40_000), encode(500, 40_000));
        assert_eq!(one, other);
        assert!(one.body.len() as u64 > 3 * ROW_GROUP_BYTES);
        assert_eq!(
            (one.records, one.first_offset, one.last.offset),
            (500, 0, 998)
        );
    }

    #[test]
    fn an_object_of_one_row_group_holds_the_same_records() {
        let encoded = encode(300, 40_000);
        let frame = decode(&encoded.body).expect("an object");
        let in_one = columns::encode(frame.clone()).expect("it is written");
        assert_ne!(in_one, encoded.body);
        let in_one = decode(&in_one).expect("an object");
        assert_eq!(compare(&in_one, &frame).expect("objects"), Likeness::Same);
    }

    #[test]
    fn an_object_ends_with_its_last_record_wherever_its_row_groups_end() {
        // Each record closes a row group.
        let large = encode(3, 5_000_000);
        assert_eq!((large.records, large.last.offset), (3, 4));
        // One does not.
        assert_eq!(encode(2, 40).last.offset, 2);
    }

    #[test]
    fn without_records_there_is_no_object() {
        let encoder = Encoder::new().expect("the columns are fine");
        assert_eq!(encoder.finish().expect("nothing is written"), None);
    }
}
