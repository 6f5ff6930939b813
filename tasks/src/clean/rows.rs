//! Clean rows between cleaning and writing: columns of plain bytes, which are quick to fill, to write to a temporary file and to read
//! back, and become a frame once it is known which rows stay.

use std::io;

use polars::prelude::*;

use super::spill::{Extent, Spill};
use crate::{
    dataset::{ColumnType, Dataset, Value},
    lake,
};

/// The rows of one landed object.
#[derive(Debug)]
pub(super) struct Rows {
    count: usize,
    /// Those of the dataset, then the offset and the timestamp of the message.
    columns: Vec<Plain>,
}

/// A column: lengths or values of fixed size, and the bytes of its texts.
#[derive(Debug, Default)]
struct Plain {
    fixed: Vec<u8>,
    texts: Vec<u8>,
}

const NULL: u32 = u32::MAX;

impl Rows {
    pub(super) fn new(dataset: &Dataset) -> Self {
        Self {
            count: 0,
            columns: (0..dataset.columns().len() + 2)
                .map(|_| Plain::default())
                .collect(),
        }
    }

    /// Adds a row and gives its place. `values` are those of the dataset that made the rows.
    pub(super) fn push(
        &mut self,
        dataset: &Dataset,
        values: &[Value<'_>],
        offset: i64,
        timestamp: Option<i64>,
    ) -> usize {
        let own = dataset.columns().iter().map(|column| column.column_type);
        let types = own.chain([ColumnType::Integer, ColumnType::Timestamp]);
        let message = [
            Value::Integer(offset),
            timestamp.map_or(Value::Null, Value::Timestamp),
        ];
        let values = values.iter().chain(&message);
        for ((plain, value), column_type) in self.columns.iter_mut().zip(values).zip(types) {
            plain.push(column_type, value);
        }
        self.count += 1;
        self.count - 1
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.columns
            .iter()
            .map(|plain| plain.fixed.len() + plain.texts.len())
            .sum()
    }
}

impl Plain {
    /// A value of another type than the column cannot come from the dataset that made the column; it would be null.
    fn push(&mut self, column_type: ColumnType, value: &Value<'_>) {
        match column_type {
            ColumnType::Text | ColumnType::Json => match value {
                Value::Text(text) => self.text(text),
                Value::Json(text) => self.text(text),
                Value::Null
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Boolean(_)
                | Value::Timestamp(_)
                | Value::Tags(_) => self.length(NULL),
            },
            ColumnType::TextList => match value {
                Value::Tags(tags) => {
                    let at = self.fixed.len();
                    self.length(0);
                    let mut count = 0_u32;
                    for tag in tags.iter() {
                        self.text(tag);
                        count += 1;
                    }
                    self.fixed[at..at + 4].copy_from_slice(&count.to_le_bytes());
                }
                Value::Null
                | Value::Text(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Boolean(_)
                | Value::Timestamp(_)
                | Value::Json(_) => self.length(NULL),
            },
            ColumnType::Boolean => self.fixed.push(match value {
                Value::Boolean(false) => 0,
                Value::Boolean(true) => 1,
                Value::Null
                | Value::Text(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Timestamp(_)
                | Value::Tags(_)
                | Value::Json(_) => 2,
            }),
            ColumnType::Integer | ColumnType::Float | ColumnType::Timestamp => {
                let (valid, bytes) = match value {
                    Value::Integer(value) | Value::Timestamp(value) => (1, value.to_le_bytes()),
                    Value::Float(value) => (1, value.to_le_bytes()),
                    Value::Null
                    | Value::Text(_)
                    | Value::Boolean(_)
                    | Value::Tags(_)
                    | Value::Json(_) => (0, [0; 8]),
                };
                self.fixed.push(valid);
                self.fixed.extend_from_slice(&bytes);
            }
        }
    }

    /// Messages are far shorter than the four gigabytes that a length can say.
    fn text(&mut self, text: &str) {
        self.length(text.len() as u32);
        self.texts.extend_from_slice(text.as_bytes());
    }

    fn length(&mut self, length: u32) {
        self.fixed.extend_from_slice(&length.to_le_bytes());
    }
}

/// Rows that wait until it is known which of them stay: in memory, or in the temporary file.
#[derive(Debug)]
pub(super) enum Held {
    Memory(Rows),
    Spilled {
        count: usize,
        extent: Extent,
        /// Of the values and the texts of each column.
        lengths: Vec<(usize, usize)>,
    },
}

impl Held {
    /// Moves rows to the temporary file.
    pub(super) fn spilled(rows: &Rows, spill: &Spill) -> io::Result<Self> {
        let buffers = rows
            .columns
            .iter()
            .flat_map(|plain| [plain.fixed.as_slice(), plain.texts.as_slice()]);
        Ok(Self::Spilled {
            count: rows.count,
            extent: spill.append(buffers)?,
            lengths: rows
                .columns
                .iter()
                .map(|plain| (plain.fixed.len(), plain.texts.len()))
                .collect(),
        })
    }

    /// Gives the rows back.
    pub(super) fn into_rows(self, spill: &Spill) -> io::Result<Rows> {
        match self {
            Self::Memory(rows) => Ok(rows),
            Self::Spilled {
                count,
                extent,
                lengths,
            } => {
                let mut place = extent;
                let mut columns = Vec::with_capacity(lengths.len());
                for (fixed, texts) in lengths {
                    columns.push(Plain {
                        fixed: spill.read(place.take(fixed))?,
                        texts: spill.read(place.take(texts))?,
                    });
                }
                Ok(Rows { count, columns })
            }
        }
    }
}

/// One bit per row: whether its key came again.
#[derive(Debug, Clone)]
pub(super) struct Superseded {
    words: Vec<u64>,
    set: usize,
}

impl Superseded {
    pub(super) fn none(rows: usize) -> Self {
        Self {
            words: vec![0; rows.div_ceil(64)],
            set: 0,
        }
    }

    pub(super) fn mark(&mut self, row: usize) {
        let bit = 1 << (row % 64);
        if self.words[row / 64] & bit == 0 {
            self.words[row / 64] |= bit;
            self.set += 1;
        }
    }

    pub(super) fn count(&self) -> usize {
        self.set
    }

    fn stays(&self, row: usize) -> bool {
        self.words[row / 64] >> (row % 64) & 1 == 0
    }
}

/// The frame of one part, filled from the rows of one landed object after the other.
pub(super) struct Frame {
    columns: Vec<Builder>,
    partitions: Vec<i32>,
}

enum Builder {
    Text(StringChunkedBuilder),
    Integer(PrimitiveChunkedBuilder<Int64Type>),
    Float(PrimitiveChunkedBuilder<Float64Type>),
    Boolean(BooleanChunkedBuilder),
    Timestamp(PrimitiveChunkedBuilder<Int64Type>, TimeUnit),
    TextList(ListStringChunkedBuilder),
}

impl Frame {
    pub(super) fn new(dataset: &Dataset, rows: usize) -> Self {
        let mut columns: Vec<Builder> = dataset
            .columns()
            .iter()
            .map(|column| Builder::new(&column.name, column.column_type, rows))
            .collect();
        columns.push(Builder::new(lake::OFFSET, ColumnType::Integer, rows));
        columns.push(Builder::Timestamp(
            PrimitiveChunkedBuilder::new(lake::TIMESTAMP.into(), rows),
            TimeUnit::Milliseconds,
        ));
        Self {
            columns,
            partitions: Vec::with_capacity(rows),
        }
    }

    /// Adds the rows that stay.
    pub(super) fn add(
        &mut self,
        rows: &Rows,
        partition: i32,
        superseded: &Superseded,
    ) -> PolarsResult<()> {
        for (builder, plain) in self.columns.iter_mut().zip(&rows.columns) {
            builder.add(plain, superseded)?;
        }
        let stay = rows.count - superseded.count();
        self.partitions
            .resize(self.partitions.len() + stay, partition);
        Ok(())
    }

    /// The columns of the dataset, then partition, offset and timestamp of the message.
    pub(super) fn finish(self) -> PolarsResult<DataFrame> {
        let rows = self.partitions.len();
        let mut columns: Vec<Column> = self.columns.into_iter().map(Builder::finish).collect();
        let before_offset = columns.len() - 2;
        columns.insert(
            before_offset,
            Column::new(lake::PARTITION.into(), self.partitions),
        );
        DataFrame::new(rows, columns)
    }
}

impl Builder {
    fn new(name: &str, column_type: ColumnType, rows: usize) -> Self {
        let name = PlSmallStr::from(name);
        match column_type {
            ColumnType::Text | ColumnType::Json => {
                Self::Text(StringChunkedBuilder::new(name, rows))
            }
            ColumnType::Integer => Self::Integer(PrimitiveChunkedBuilder::new(name, rows)),
            ColumnType::Float => Self::Float(PrimitiveChunkedBuilder::new(name, rows)),
            ColumnType::Boolean => Self::Boolean(BooleanChunkedBuilder::new(name, rows)),
            ColumnType::Timestamp => Self::Timestamp(
                PrimitiveChunkedBuilder::new(name, rows),
                TimeUnit::Microseconds,
            ),
            ColumnType::TextList => {
                Self::TextList(ListStringChunkedBuilder::new(name, rows, rows * 8))
            }
        }
    }

    fn add(&mut self, plain: &Plain, superseded: &Superseded) -> PolarsResult<()> {
        match self {
            Self::Text(builder) => {
                let mut texts = Texts::of(plain)?;
                for (row, length) in lengths(&plain.fixed).enumerate() {
                    let text = texts.next(length)?;
                    if superseded.stays(row) {
                        builder.append_option(text);
                    }
                }
            }
            Self::TextList(builder) => {
                let mut texts = Texts::of(plain)?;
                let mut lengths = lengths(&plain.fixed);
                let mut list = Vec::new();
                let mut row = 0;
                while let Some(count) = lengths.next() {
                    list.clear();
                    if count != NULL {
                        for length in lengths.by_ref().take(count as usize) {
                            list.extend(texts.next(length)?);
                        }
                    }
                    if superseded.stays(row) {
                        if count == NULL {
                            builder.append_null();
                        } else {
                            builder.append_values_iter(list.iter().copied());
                        }
                    }
                    row += 1;
                }
            }
            Self::Boolean(builder) => {
                for (row, value) in plain.fixed.iter().enumerate() {
                    if superseded.stays(row) {
                        builder.append_option((*value != 2).then_some(*value == 1));
                    }
                }
            }
            Self::Integer(builder) | Self::Timestamp(builder, _) => {
                for value in staying(plain, superseded) {
                    builder.append_option(value.map(i64::from_le_bytes));
                }
            }
            Self::Float(builder) => {
                for value in staying(plain, superseded) {
                    builder.append_option(value.map(f64::from_le_bytes));
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Column {
        match self {
            Self::Text(builder) => builder.finish().into_column(),
            Self::Integer(builder) => builder.finish().into_column(),
            Self::Float(builder) => builder.finish().into_column(),
            Self::Boolean(builder) => builder.finish().into_column(),
            Self::Timestamp(builder, unit) => {
                builder.finish().into_datetime(unit, None).into_column()
            }
            Self::TextList(mut builder) => builder.finish().into_column(),
        }
    }
}

fn lengths(fixed: &[u8]) -> impl Iterator<Item = u32> {
    fixed
        .chunks_exact(4)
        .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Validity and value of every row that stays.
fn staying(plain: &Plain, superseded: &Superseded) -> impl Iterator<Item = Option<[u8; 8]>> {
    plain
        .fixed
        .chunks_exact(9)
        .enumerate()
        .filter(|(row, _)| superseded.stays(*row))
        .map(|(_, bytes)| (bytes[0] == 1).then(|| std::array::from_fn(|index| bytes[index + 1])))
}

/// The texts of a column, one after the other. What came back from a file is checked once, as a whole.
struct Texts<'p> {
    rest: &'p str,
}

impl<'p> Texts<'p> {
    fn of(plain: &'p Plain) -> PolarsResult<Self> {
        let rest = std::str::from_utf8(&plain.texts).map_err(
            |error| polars_err!(ComputeError: "the temporary file was changed: {error}"),
        )?;
        Ok(Self { rest })
    }

    fn next(&mut self, length: u32) -> PolarsResult<Option<&'p str>> {
        if length == NULL {
            return Ok(None);
        }
        let (text, rest) = self
            .rest
            .split_at_checked(length as usize)
            .ok_or_else(|| polars_err!(ComputeError: "the temporary file was changed"))?;
        self.rest = rest;
        Ok(Some(text))
    }
}
