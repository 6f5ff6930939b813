//! The rows of one batch: typed column builders, and the latest row of each key.
//!
//! A batch owns whole keys: no two batches of one landing may share a key. Today one batch holds a landing; split on a hash of the
//! key, several of them hold one in bounded memory.

use std::collections::HashMap;

use polars::prelude::*;

use crate::{
    dataset::{Cell, ColumnType, Dataset, Row},
    lake,
};

/// Where a row comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// Milliseconds since 1970.
    pub(super) timestamp: Option<i64>,
}

/// Collects clean rows.
pub(super) struct Batch {
    key: usize,
    columns: Vec<ColumnBuilder>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    timestamps: Vec<Option<i64>>,
    keep: Vec<bool>,
    latest: HashMap<Key, usize>,
    duplicates: u64,
}

#[derive(PartialEq, Eq, Hash)]
enum Key {
    Text(String),
    Integer(i64),
}

enum ColumnBuilder {
    Text(StringChunkedBuilder),
    Integer(PrimitiveChunkedBuilder<Int64Type>),
    Float(PrimitiveChunkedBuilder<Float64Type>),
    Boolean(BooleanChunkedBuilder),
    Timestamp(PrimitiveChunkedBuilder<Int64Type>),
    TextList(ListStringChunkedBuilder),
}

impl Batch {
    pub(super) fn new(dataset: &Dataset, expected_rows: usize) -> Self {
        Self {
            key: dataset.key(),
            columns: dataset
                .columns()
                .iter()
                .map(|column| ColumnBuilder::new(&column.name, column.column_type, expected_rows))
                .collect(),
            partitions: Vec::with_capacity(expected_rows),
            offsets: Vec::with_capacity(expected_rows),
            timestamps: Vec::with_capacity(expected_rows),
            keep: Vec::with_capacity(expected_rows),
            latest: HashMap::with_capacity(expected_rows),
            duplicates: 0,
        }
    }

    /// Adds a row. Of two rows with one key the one with the higher offset stays; of two partitions the higher one.
    pub(super) fn push(&mut self, row: Row, origin: Origin) {
        let index = self.keep.len();
        let mut stays = true;
        if let Some(key) = key_of(&row.values[self.key]) {
            let rank = |offset: i64, partition: i32| (offset, partition);
            match self.latest.get(&key).copied() {
                Some(earlier)
                    if rank(self.offsets[earlier], self.partitions[earlier])
                        > rank(origin.offset, origin.partition) =>
                {
                    stays = false;
                    self.duplicates += 1;
                }
                Some(earlier) => {
                    self.keep[earlier] = false;
                    self.duplicates += 1;
                    self.latest.insert(key, index);
                }
                None => {
                    self.latest.insert(key, index);
                }
            }
        }
        self.keep.push(stays);
        self.partitions.push(origin.partition);
        self.offsets.push(origin.offset);
        self.timestamps.push(origin.timestamp);
        for (builder, cell) in self.columns.iter_mut().zip(row.values) {
            builder.push(cell);
        }
    }

    /// Rows whose key came again.
    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// The latest row of each key.
    pub(super) fn finish(self) -> PolarsResult<DataFrame> {
        let rows = self.keep.len();
        let mut columns: Vec<Column> = self
            .columns
            .into_iter()
            .map(ColumnBuilder::finish)
            .collect();
        columns.push(Column::new(lake::PARTITION.into(), self.partitions));
        columns.push(Column::new(lake::OFFSET.into(), self.offsets));
        let timestamps = Column::new(lake::TIMESTAMP.into(), self.timestamps);
        columns.push(timestamps.cast(&DataType::Datetime(TimeUnit::Milliseconds, None))?);
        let frame = DataFrame::new(rows, columns)?;
        if self.duplicates == 0 {
            return Ok(frame);
        }
        frame.filter(&BooleanChunked::from_slice("keep".into(), &self.keep))
    }
}

fn key_of(cell: &Cell) -> Option<Key> {
    match cell {
        Cell::Text(text) => Some(Key::Text(text.clone())),
        Cell::Integer(number) => Some(Key::Integer(*number)),
        // The contract refuses null keys and keys of other types.
        Cell::Null
        | Cell::Float(_)
        | Cell::Timestamp(_)
        | Cell::Boolean(_)
        | Cell::TextList(_)
        | Cell::Json(_) => None,
    }
}

impl ColumnBuilder {
    fn new(name: &str, column_type: ColumnType, rows: usize) -> Self {
        let name = PlSmallStr::from(name);
        match column_type {
            ColumnType::Text | ColumnType::Json => {
                Self::Text(StringChunkedBuilder::new(name, rows))
            }
            ColumnType::Integer => Self::Integer(PrimitiveChunkedBuilder::new(name, rows)),
            ColumnType::Float => Self::Float(PrimitiveChunkedBuilder::new(name, rows)),
            ColumnType::Timestamp => Self::Timestamp(PrimitiveChunkedBuilder::new(name, rows)),
            ColumnType::Boolean => Self::Boolean(BooleanChunkedBuilder::new(name, rows)),
            ColumnType::TextList => {
                Self::TextList(ListStringChunkedBuilder::new(name, rows, rows * 8))
            }
        }
    }

    /// A cell of another type than the column cannot come from the dataset that made the builder; it would be null.
    fn push(&mut self, cell: Cell) {
        match (self, cell) {
            (Self::Text(builder), Cell::Text(text) | Cell::Json(text)) => {
                builder.append_value(text)
            }
            (Self::Text(builder), _) => builder.append_null(),
            (Self::Integer(builder), Cell::Integer(number)) => builder.append_value(number),
            (Self::Integer(builder), _) => builder.append_null(),
            (Self::Float(builder), Cell::Float(number)) => builder.append_value(number),
            (Self::Float(builder), _) => builder.append_null(),
            (Self::Timestamp(builder), Cell::Timestamp(micros)) => builder.append_value(micros),
            (Self::Timestamp(builder), _) => builder.append_null(),
            (Self::Boolean(builder), Cell::Boolean(flag)) => builder.append_value(flag),
            (Self::Boolean(builder), _) => builder.append_null(),
            (Self::TextList(builder), Cell::TextList(list)) => {
                builder.append_values_iter(list.iter().map(String::as_str))
            }
            (Self::TextList(builder), _) => builder.append_null(),
        }
    }

    fn finish(self) -> Column {
        match self {
            Self::Text(builder) => builder.finish().into_column(),
            Self::Integer(builder) => builder.finish().into_column(),
            Self::Float(builder) => builder.finish().into_column(),
            Self::Timestamp(builder) => builder
                .finish()
                .into_datetime(TimeUnit::Microseconds, None)
                .into_column(),
            Self::Boolean(builder) => builder.finish().into_column(),
            Self::TextList(mut builder) => builder.finish().into_column(),
        }
    }
}
