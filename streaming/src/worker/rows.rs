//! Rows on their way to Postgres, in the binary form that `copy` and array parameters share: every field as its length and its
//! bytes. Pure.
//!
//! The thread that reads encodes them, one after the other into one buffer. So what a cell holds is freed where it was made, and a
//! batch crosses to the thread that writes as two allocations instead of some twenty a row, which cost a quarter of the worker.

use std::collections::{HashMap, hash_map::Entry};

use pinwheel_tasks::dataset::{Cell, ColumnType, Dataset};

/// What Postgres has before the first row of a binary `copy`, and behind the last.
pub(super) const COPY_HEAD: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
pub(super) const COPY_END: [u8; 2] = (-1i16).to_be_bytes();

/// Postgres' numbers of the types that columns have.
pub(super) mod oid {
    pub(in super::super) const BOOLEAN: u32 = 16;
    pub(in super::super) const BIGINT: u32 = 20;
    pub(in super::super) const INTEGER: u32 = 23;
    pub(in super::super) const TEXT: u32 = 25;
    pub(in super::super) const DOUBLE: u32 = 701;
    pub(in super::super) const TEXT_LIST: u32 = 1009;
    pub(in super::super) const TIMESTAMPTZ: u32 = 1184;
    pub(in super::super) const JSONB: u32 = 3802;
}

/// From 1970 to 2000, where Postgres' time begins, in microseconds.
const EPOCH_US: i64 = 946_684_800_000_000;
/// The first moment that a `timestamptz` holds, and the first that it does not, in microseconds since 2000.
const TIMES_US: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;
/// The version that binary `jsonb` begins with.
const JSONB_VERSION: u8 = 1;

/// Postgres' number of the type of a column.
pub(super) fn oid_of(column_type: ColumnType) -> u32 {
    match column_type {
        ColumnType::Text => oid::TEXT,
        ColumnType::Integer => oid::BIGINT,
        ColumnType::Float => oid::DOUBLE,
        ColumnType::Boolean => oid::BOOLEAN,
        ColumnType::Timestamp => oid::TIMESTAMPTZ,
        ColumnType::TextList => oid::TEXT_LIST,
        ColumnType::Json => oid::JSONB,
    }
}

/// The rows of a batch, each key once, ordered by the bytes of the key.
#[derive(Debug, Default)]
pub(super) struct Rows {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// One row and where it came from.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: usize,
    end: usize,
    key_start: usize,
    key_end: usize,
    partition: i32,
    offset: i64,
    timestamp_ms: Option<i64>,
}

/// One row of [`Rows`].
#[derive(Clone, Copy, Debug)]
pub(super) struct EncodedRow<'r> {
    /// All of it, as `copy` reads it.
    pub(super) bytes: &'r [u8],
    /// The bytes of its key, as Postgres sends them.
    pub(super) key: &'r [u8],
}

impl<'r> EncodedRow<'r> {
    /// Its fields in the order of the columns; `None` is null.
    pub(super) fn fields(self) -> impl Iterator<Item = Option<&'r [u8]>> {
        let mut rest = &self.bytes[2..];
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first_chunk()?;
            let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
                rest = behind;
                return Some(None);
            };
            let (field, behind) = behind.split_at(length);
            rest = behind;
            Some(Some(field))
        })
    }
}

impl Rows {
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = EncodedRow<'_>> {
        self.places.iter().map(|place| EncodedRow {
            bytes: &self.bytes[place.start..place.end],
            key: &self.bytes[place.key_start..place.key_end],
        })
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }
}

/// Collects the newest row of each key.
#[derive(Debug, Default)]
pub(super) struct Newest {
    bytes: Vec<u8>,
    by_key: HashMap<String, Place>,
}

impl Newest {
    /// Keeps a row unless a later one of its key is there: the rule of the upsert's `where`, in memory.
    pub(super) fn keep(
        &mut self,
        dataset: &Dataset,
        key: String,
        cells: &[Cell],
        (partition, offset, timestamp_ms): (i32, i64, Option<i64>),
    ) {
        let kept = match self.by_key.entry(key) {
            Entry::Vacant(entry) => entry.insert_entry(Place {
                start: 0,
                end: 0,
                key_start: 0,
                key_end: 0,
                partition,
                offset,
                timestamp_ms,
            }),
            Entry::Occupied(entry) => {
                let kept = entry.get();
                let is_later = if kept.partition == partition {
                    kept.offset < offset
                } else {
                    (kept.timestamp_ms, kept.partition) < (timestamp_ms, partition)
                };
                if !is_later {
                    return;
                }
                entry
            }
        };
        let start = self.bytes.len();
        let (key_start, key_end) = push_row(
            &mut self.bytes,
            dataset,
            cells,
            (partition, offset, timestamp_ms),
        );
        *kept.into_mut() = Place {
            start,
            end: self.bytes.len(),
            key_start,
            key_end,
            partition,
            offset,
            timestamp_ms,
        };
    }

    /// Hands the rows out and begins anew.
    pub(super) fn take(&mut self) -> Rows {
        let bytes = std::mem::take(&mut self.bytes);
        let mut places: Vec<Place> = self.by_key.drain().map(|(_, place)| place).collect();
        places.sort_unstable_by(|one, other| {
            bytes[one.key_start..one.key_end].cmp(&bytes[other.key_start..other.key_end])
        });
        // The next batch is probably as large.
        self.bytes.reserve(bytes.len());
        Rows { bytes, places }
    }
}

/// Appends a row and answers with where the bytes of its key are.
fn push_row(
    bytes: &mut Vec<u8>,
    dataset: &Dataset,
    cells: &[Cell],
    (partition, offset, timestamp_ms): (i32, i64, Option<i64>),
) -> (usize, usize) {
    let columns = dataset.columns();
    let fields = i16::try_from(columns.len() + 3).unwrap_or(i16::MAX);
    bytes.extend(fields.to_be_bytes());
    let mut key = (0, 0);
    for (position, (column, cell)) in columns.iter().zip(cells).enumerate() {
        let start = bytes.len() + 4;
        push_cell(bytes, column.column_type, cell);
        if position == dataset.key() {
            key = (start, bytes.len());
        }
    }
    push_field(bytes, &partition.to_be_bytes());
    push_field(bytes, &offset.to_be_bytes());
    match timestamp_ms
        .and_then(|ms| ms.checked_mul(1_000))
        .and_then(moment)
    {
        Some(moment) => push_field(bytes, &moment.to_be_bytes()),
        None => push_null(bytes),
    }
    key
}

/// A cell always has its column's type; were it otherwise, null is what the column can hold.
fn push_cell(bytes: &mut Vec<u8>, column_type: ColumnType, cell: &Cell) {
    match (column_type, cell) {
        (ColumnType::Text, Cell::Text(text) | Cell::Json(text)) => {
            push_field(bytes, text.as_bytes());
        }
        (ColumnType::Json, Cell::Json(text)) => {
            push_length(bytes, text.len() + 1);
            bytes.push(JSONB_VERSION);
            bytes.extend_from_slice(text.as_bytes());
        }
        (ColumnType::TextList, Cell::TextList(items)) => push_list(bytes, items),
        (ColumnType::Integer, Cell::Integer(value)) => push_field(bytes, &value.to_be_bytes()),
        (ColumnType::Float, Cell::Float(value)) => push_field(bytes, &value.to_be_bytes()),
        (ColumnType::Boolean, Cell::Boolean(value)) => push_field(bytes, &[u8::from(*value)]),
        (ColumnType::Timestamp, Cell::Timestamp(micros)) => match moment(*micros) {
            Some(moment) => push_field(bytes, &moment.to_be_bytes()),
            None => push_null(bytes),
        },
        (
            ColumnType::Text
            | ColumnType::Json
            | ColumnType::TextList
            | ColumnType::Integer
            | ColumnType::Float
            | ColumnType::Boolean
            | ColumnType::Timestamp,
            _,
        ) => push_null(bytes),
    }
}

/// A moment as Postgres counts it, unless it holds no such time.
fn moment(micros: i64) -> Option<i64> {
    micros
        .checked_sub(EPOCH_US)
        .filter(|since_2000| TIMES_US.contains(since_2000))
}

fn push_field(bytes: &mut Vec<u8>, field: &[u8]) {
    push_length(bytes, field.len());
    bytes.extend_from_slice(field);
}

/// A message is far smaller than what Postgres takes as one field.
fn push_length(bytes: &mut Vec<u8>, length: usize) {
    let length = i32::try_from(length).unwrap_or(i32::MAX);
    bytes.extend(length.to_be_bytes());
}

fn push_null(bytes: &mut Vec<u8>) {
    bytes.extend((-1i32).to_be_bytes());
}

/// A list as a binary array: dimensions, whether there are nulls, the type; then length and lower bound of the one dimension, and
/// the elements as fields. An empty one has no dimension.
fn push_list(bytes: &mut Vec<u8>, items: &[String]) {
    let dimension = if items.is_empty() { 0 } else { 8 };
    let elements: usize = items.iter().map(|item| 4 + item.len()).sum();
    push_length(bytes, 12 + dimension + elements);
    bytes.extend(i32::from(!items.is_empty()).to_be_bytes());
    bytes.extend(0i32.to_be_bytes());
    bytes.extend(oid::TEXT.to_be_bytes());
    if !items.is_empty() {
        push_length(bytes, items.len());
        bytes.extend(1i32.to_be_bytes());
    }
    for item in items {
        push_field(bytes, item.as_bytes());
    }
}

/// A parameter that is an array, made of the fields of one column.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) element: u32,
    has_null: bool,
    length: i32,
    elements: Vec<u8>,
}

impl Column {
    /// Elements travel by this type: a list of lists cannot be unnested row by row, so lists go as array literals.
    pub(super) fn new(column_type: ColumnType) -> Self {
        Self::of(match column_type {
            ColumnType::TextList | ColumnType::Json => oid::TEXT,
            ColumnType::Text
            | ColumnType::Integer
            | ColumnType::Float
            | ColumnType::Boolean
            | ColumnType::Timestamp => oid_of(column_type),
        })
    }

    pub(super) fn of(element: u32) -> Self {
        Self {
            element,
            has_null: false,
            length: 0,
            elements: Vec::new(),
        }
    }

    /// Adds a field of a column of this type.
    pub(super) fn push(&mut self, column_type: ColumnType, field: Option<&[u8]>) {
        match (column_type, field) {
            (ColumnType::TextList, Some(list)) => {
                self.push_plain(Some(array_literal(list).as_bytes()));
            }
            (ColumnType::Json, Some(json)) => self.push_plain(json.get(1..)),
            (_, field) => self.push_plain(field),
        }
    }

    /// Adds a field as it is.
    pub(super) fn push_plain(&mut self, field: Option<&[u8]>) {
        self.length += 1;
        match field {
            Some(field) => push_field(&mut self.elements, field),
            None => {
                self.has_null = true;
                push_null(&mut self.elements);
            }
        }
    }

    /// Writes the binary array.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(1i32.to_be_bytes());
        bytes.extend(i32::from(self.has_null).to_be_bytes());
        bytes.extend(self.element.to_be_bytes());
        bytes.extend(self.length.to_be_bytes());
        bytes.extend(1i32.to_be_bytes());
        bytes.extend_from_slice(&self.elements);
    }
}

/// Writes a list that [`push_list`] made as Postgres' array literal, every element between quotes.
fn array_literal(list: &[u8]) -> String {
    let mut literal = String::from("{");
    let mut rest = list.get(20..).unwrap_or_default();
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or_default();
        let (item, behind) = behind.split_at(length.min(behind.len()));
        rest = behind;
        if literal.len() > 1 {
            literal.push(',');
        }
        literal.push('"');
        for character in String::from_utf8_lossy(item).chars() {
            match character {
                '"' | '\\' => literal.extend(['\\', character]),
                _ => literal.push(character),
            }
        }
        literal.push('"');
    }
    literal.push('}');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<u8> {
        let items: Vec<String> = items.iter().map(|&item| item.to_owned()).collect();
        let mut bytes = Vec::new();
        push_list(&mut bytes, &items);
        bytes.split_off(4)
    }

    #[test]
    fn lists_become_array_literals_that_keep_every_character() {
        let items = [
            "plain",
            "",
            "NULL",
            "a,b",
            "q\"uote",
            "back\\slash",
            "{brace}",
            "日本 é",
        ];
        assert_eq!(
            array_literal(&list(&items)),
            "{\"plain\",\"\",\"NULL\",\"a,b\",\"q\\\"uote\",\"back\\\\slash\",\"{brace}\",\"日本 é\"}"
        );
        assert_eq!(array_literal(&list(&[])), "{}");
    }

    #[test]
    fn a_time_that_postgres_does_not_hold_is_null() {
        assert_eq!(moment(EPOCH_US), Some(0));
        assert_eq!(moment(i64::MIN), None);
        assert_eq!(moment(EPOCH_US + TIMES_US.start - 1), None);
        assert_eq!(
            moment(EPOCH_US + TIMES_US.start),
            Some(-211_813_488_000_000_000)
        );
    }
}
