//! Records as columns: the shape of a landed Parquet object, verbatim, and the same bytes for the same records.

use std::{cmp::Ordering, io::Write};

use polars::{polars_utils::compression::ZstdLevel, prelude::*};
use polars_arrow::{
    array::{Array, ListArray, MutableBinaryViewArray, StructArray, ViewType},
    datatypes::{ArrowDataType, Field as ArrowField},
    offset::{Offsets, OffsetsBuffer},
};
use sha2::{Digest, Sha256};

/// Offset in the partition, `i64`.
pub const OFFSET: &str = "offset";
/// Milliseconds since 1970 as the broker says; null when the record has none.
pub const TIMESTAMP: &str = "timestamp";
/// The key's bytes; null when the record has none.
pub const KEY: &str = "key";
/// The value's bytes; null is a tombstone.
pub const VALUE: &str = "value";
/// A list of `{name, value}` in the order of the record.
pub const HEADERS: &str = "headers";

/// Level 1 is within 2 % of level 3 in size on JSON and takes half the time.
const ZSTD_LEVEL: i32 = 1;

/// One record, borrowed from the client that read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// Names and values.
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

impl Record<'_> {
    /// The bytes that count towards the size of an object.
    pub fn payload_bytes(&self) -> u64 {
        let optional = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + optional(*value))
            .sum();
        (optional(self.key) + optional(self.value) + headers) as u64
    }

    /// A checksum of all that a record holds beside its offset. A topic that was deleted and created again has another
    /// one at the same offset.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |bytes: Option<&[u8]>| {
            // A length before each keeps two records apart whose bytes, joined, are the same; no length is this long.
            let length = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
            hash.update(length.to_be_bytes());
            hash.update(bytes.unwrap_or_default());
        };
        add(self
            .timestamp
            .map(i64::to_be_bytes)
            .as_ref()
            .map(|bytes| &bytes[..]));
        add(self.key);
        add(self.value);
        for (name, value) in &self.headers {
            add(Some(name.as_bytes()));
            add(*value);
        }
        hex::encode(hash.finalize())
    }
}

/// Collects the records of one object.
#[derive(Debug, Default)]
pub struct Columns {
    offsets: Vec<i64>,
    timestamps: Vec<Option<i64>>,
    keys: MutableBinaryViewArray<[u8]>,
    values: MutableBinaryViewArray<[u8]>,
    headers_per_record: Vec<usize>,
    header_names: MutableBinaryViewArray<str>,
    header_values: MutableBinaryViewArray<[u8]>,
}

impl Columns {
    /// Adds a record.
    pub fn push(&mut self, record: &Record<'_>) {
        self.offsets.push(record.offset);
        self.timestamps.push(record.timestamp);
        self.keys.push(record.key);
        self.values.push(record.value);
        self.headers_per_record.push(record.headers.len());
        for (name, value) in &record.headers {
            self.header_names.push(Some(*name));
            self.header_values.push(*value);
        }
    }

    /// Records so far.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The offsets of the first and the last record.
    pub fn span(&self) -> Option<(i64, i64)> {
        Some((*self.offsets.first()?, *self.offsets.last()?))
    }

    /// The record that was added last.
    pub fn last(&mut self) -> Option<Record<'_>> {
        let index = self.len().checked_sub(1)?;
        let pairs = self.header_names.len();
        let first_pair = pairs.checked_sub(*self.headers_per_record.last()?)?;
        let valued: Vec<bool> = (first_pair..pairs)
            .map(|pair| is_set(&mut self.header_values, pair))
            .collect();
        let (has_key, has_value) = (
            is_set(&mut self.keys, index),
            is_set(&mut self.values, index),
        );
        Some(Record {
            offset: self.offsets[index],
            timestamp: self.timestamps[index],
            key: has_key.then(|| self.keys.value(index)),
            value: has_value.then(|| self.values.value(index)),
            headers: (first_pair..pairs)
                .zip(valued)
                .map(|(pair, valued)| {
                    let value = valued.then(|| self.header_values.value(pair));
                    (self.header_names.value(pair), value)
                })
                .collect(),
        })
    }

    /// The records as a frame.
    ///
    /// # Errors
    /// Polars refuses a column.
    pub fn finish(self) -> PolarsResult<DataFrame> {
        let records = self.offsets.len();
        let pairs = StructArray::try_new(
            ArrowDataType::Struct(vec![
                ArrowField::new("name".into(), ArrowDataType::Utf8View, true),
                ArrowField::new("value".into(), ArrowDataType::BinaryView, true),
            ]),
            self.header_names.len(),
            vec![
                self.header_names.freeze().boxed(),
                self.header_values.freeze().boxed(),
            ],
            None,
        )?;
        let borders: OffsetsBuffer<i64> =
            Offsets::try_from_lengths(self.headers_per_record.into_iter())?.into();
        let headers = ListArray::<i64>::try_new(
            ListArray::<i64>::default_datatype(pairs.dtype().clone()),
            borders,
            pairs.boxed(),
            None,
        )?;
        let columns = vec![
            Column::new(OFFSET.into(), self.offsets),
            Column::new(TIMESTAMP.into(), self.timestamps),
            Series::try_from((PlSmallStr::from(KEY), self.keys.freeze().boxed()))?.into_column(),
            Series::try_from((PlSmallStr::from(VALUE), self.values.freeze().boxed()))?
                .into_column(),
            Series::try_from((PlSmallStr::from(HEADERS), headers.boxed()))?.into_column(),
        ];
        DataFrame::new(records, columns)
    }
}

fn is_set<T: ViewType + ?Sized>(array: &mut MutableBinaryViewArray<T>, index: usize) -> bool {
    array.validity().is_none_or(|bits| bits.get(index))
}

/// The bytes of an object of one row group. They depend on nothing but the records: no time, no threads.
///
/// # Errors
/// Polars cannot write the frame.
pub fn encode(mut records: DataFrame) -> PolarsResult<Vec<u8>> {
    let mut body = Vec::new();
    writer(&mut body)?
        .with_row_group_size(Some(usize::MAX))
        .finish(&mut records)?;
    Ok(body)
}

/// How every object is written.
pub(super) fn writer<W: Write>(to: W) -> PolarsResult<ParquetWriter<W>> {
    let level = ZstdLevel::try_new(ZSTD_LEVEL)?;
    Ok(ParquetWriter::new(to)
        .with_compression(ParquetCompression::Zstd(Some(level)))
        .with_statistics(StatisticsOptions::empty())
        .set_parallel(false))
}

/// How two objects with the records of the same stretch of a partition compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// Both hold the same records.
    Same,
    /// The first lacks records that the second has: the log was compacted before it was read.
    Fewer,
    /// The first has records that the second lacks.
    More,
    /// One offset holds two different records, or each has records that the other lacks.
    Different,
}

/// The offsets of the first and the last record of an object.
///
/// # Errors
/// The frame does not have the columns of this module.
pub fn span(records: &DataFrame) -> PolarsResult<Option<(i64, i64)>> {
    let offsets = offsets(records)?;
    Ok(offsets.first().copied().zip(offsets.last().copied()))
}

fn offsets(records: &DataFrame) -> PolarsResult<Vec<i64>> {
    Ok(records.column(OFFSET)?.i64()?.iter().flatten().collect())
}

/// Compares two objects' records by offset.
///
/// # Errors
/// A frame does not have the columns of this module.
pub fn compare(one: &DataFrame, other: &DataFrame) -> PolarsResult<Likeness> {
    let (lefts, rights) = (offsets(one)?, offsets(other)?);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let (mut at_left, mut at_right) = (0, 0);
    while let (Some(one), Some(other)) = (lefts.get(at_left), rights.get(at_right)) {
        match one.cmp(other) {
            Ordering::Less => at_left += 1,
            Ordering::Greater => at_right += 1,
            Ordering::Equal => {
                left.push(at_left as IdxSize);
                right.push(at_right as IdxSize);
                at_left += 1;
                at_right += 1;
            }
        }
    }
    let (left, right) = (
        IdxCa::from_vec(PlSmallStr::EMPTY, left),
        IdxCa::from_vec(PlSmallStr::EMPTY, right),
    );
    if !one.take(&left)?.equals_missing(&other.take(&right)?) {
        return Ok(Likeness::Different);
    }
    Ok(
        match (left.len() == one.height(), right.len() == other.height()) {
            (true, true) => Likeness::Same,
            (true, false) => Likeness::Fewer,
            (false, true) => Likeness::More,
            (false, false) => Likeness::Different,
        },
    )
}

/// The records of an object's bytes, with the columns of this module.
///
/// # Errors
/// The bytes are no landed object.
pub fn decode(body: &[u8]) -> PolarsResult<DataFrame> {
    read(body, &[OFFSET, TIMESTAMP, KEY, VALUE, HEADERS])
}

/// The same without the headers, which are not even decoded.
///
/// # Errors
/// The bytes are no landed object.
pub fn decode_messages(body: &[u8]) -> PolarsResult<DataFrame> {
    read(body, &[OFFSET, TIMESTAMP, KEY, VALUE])
}

fn read(body: &[u8], columns: &[&str]) -> PolarsResult<DataFrame> {
    let names = columns.iter().map(|name| (*name).to_owned()).collect();
    ParquetReader::new(std::io::Cursor::new(body))
        .with_columns(Some(names))
        .finish()?
        .select(columns.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record<'static>> {
        let value: &[u8] =
            b"\xff\x00 not UTF-8, and longer than the twelve bytes that a view holds itself";
        (0..1_000)
            .map(|index| Record {
                offset: 40 + index * 3,
                timestamp: (index % 7 != 0).then_some(1_700_000_000_000 + index),
                key: (index % 3 != 0).then_some(b"key".as_slice()),
                value: match index % 4 {
                    0 => None,
                    1 => Some(b"".as_slice()),
                    _ => Some(value),
                },
                headers: if index % 5 == 0 {
                    vec![
                        ("source", Some(b"\xfe".as_slice())),
                        ("empty", None),
                        ("source", Some(b"")),
                    ]
                } else {
                    Vec::new()
                },
            })
            .collect()
    }

    fn frame() -> DataFrame {
        let mut columns = Columns::default();
        for record in records() {
            columns.push(&record);
        }
        assert_eq!((columns.len(), columns.span()), (1_000, Some((40, 3_037))));
        columns.finish().expect("the columns have one length")
    }

    #[test]
    fn the_same_records_are_the_same_bytes() {
        let one = encode(frame()).expect("the frame can be written");
        let other = encode(frame()).expect("the frame can be written");
        assert_eq!(one, other);
    }

    #[test]
    fn records_come_back_byte_for_byte() {
        let frame = decode(&encode(frame()).expect("written")).expect("read");
        let bytes = |name: &str| {
            frame
                .column(name)
                .expect("a column")
                .binary()
                .expect("bytes")
                .clone()
        };
        let (keys, values) = (bytes(KEY), bytes(VALUE));
        let offsets = frame
            .column(OFFSET)
            .expect("a column")
            .i64()
            .expect("numbers")
            .clone();
        let timestamps = frame
            .column(TIMESTAMP)
            .expect("a column")
            .i64()
            .expect("numbers")
            .clone();
        let headers = frame
            .column(HEADERS)
            .expect("a column")
            .list()
            .expect("a list")
            .clone();
        for (index, record) in records().into_iter().enumerate() {
            assert_eq!(offsets.get(index), Some(record.offset));
            assert_eq!(timestamps.get(index), record.timestamp);
            assert_eq!(keys.get(index), record.key);
            assert_eq!(values.get(index), record.value);
            let pairs = headers.get_as_series(index).expect("a list, never null");
            let fields = pairs.struct_().expect("pairs").fields_as_series();
            let found: Vec<_> = (0..pairs.len())
                .map(|pair| {
                    let name = fields[0].str().expect("text").get(pair).expect("a name");
                    (name, fields[1].binary().expect("bytes").get(pair))
                })
                .collect();
            assert_eq!(found, record.headers);
        }
    }

    #[test]
    fn the_last_record_is_known_by_its_fingerprint() {
        let mut columns = Columns::default();
        let mut fingerprints = std::collections::BTreeSet::new();
        assert_eq!(columns.last(), None);
        for record in records() {
            columns.push(&record);
            assert_eq!(columns.last().as_ref(), Some(&record));
            fingerprints.insert(record.fingerprint());
        }
        let mut contents: Vec<_> = records();
        contents.iter_mut().for_each(|record| record.offset = 0);
        contents.sort_by_key(Record::fingerprint);
        contents.dedup();
        assert_eq!(fingerprints.len(), contents.len());
    }

    #[test]
    fn objects_of_a_compacted_stretch_are_compared_by_offset() {
        let whole = frame();
        let fewer = whole
            .slice(0, 900)
            .vstack(&whole.slice(950, 50))
            .expect("one shape");
        let mut changed = Columns::default();
        for mut record in records() {
            if record.offset == 70 {
                record.value = Some(b"another");
            }
            changed.push(&record);
        }
        let changed = changed.finish().expect("the columns have one length");
        for (one, other, likeness) in [
            (&whole, &whole, Likeness::Same),
            (&fewer, &whole, Likeness::Fewer),
            (&whole, &fewer, Likeness::More),
            (&whole, &changed, Likeness::Different),
            (
                &whole.slice(0, 500),
                &whole.slice(400, 600),
                Likeness::Different,
            ),
        ] {
            assert_eq!(compare(one, other).expect("both are objects"), likeness);
        }
    }

    #[test]
    fn other_bytes_are_no_object() {
        assert!(decode(b"PAR1 and nothing else").is_err());
    }
}
