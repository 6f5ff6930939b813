//! Clean rows between cleaning and writing: columns of plain bytes, which are quick to fill, to write to a temporary file and to read
//! back, and become a frame once it is known which rows stay.

use std::io;

use std::sync::{Mutex, PoisonError};

use polars::prelude::*;
use polars_arrow::{
    array::{Array, ListArray, Utf8ViewArray, View},
    bitmap::MutableBitmap,
    datatypes::ArrowDataType,
    offset::{Offsets, OffsetsBuffer},
};
use polars_buffer::Buffer;

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

/// Rows whose content went to the temporary file: the next object fills the same memory, which is there already. Memory that is
/// asked for anew for every object is given by the kernel page by page, and that was a sixth of all cleaning.
#[derive(Debug, Default)]
pub(super) struct Spare {
    rows: Mutex<Vec<Rows>>,
}

impl Spare {
    /// Rows without content.
    pub(super) fn take(&self, dataset: &Dataset) -> Rows {
        let spare = self.lock().pop();
        spare.unwrap_or_else(|| Rows {
            count: 0,
            columns: (0..dataset.columns().len() + 2)
                .map(|_| Plain::default())
                .collect(),
        })
    }

    /// Takes rows whose content is no longer needed. There are never more of them than objects that are cleaned at the same time.
    pub(super) fn give(&self, mut rows: Rows) {
        rows.count = 0;
        for plain in &mut rows.columns {
            plain.fixed.clear();
            plain.texts.clear();
        }
        self.lock().push(rows);
    }

    /// Gives the memory back.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Rows>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
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

/// The frame of one part, filled from the rows of one landed object after the other. Texts are not copied: a column refers to the
/// bytes of each object's rows.
pub(super) struct Frame {
    columns: Vec<(PlSmallStr, Builder)>,
    partitions: Vec<i32>,
}

enum Builder {
    Text(TextColumn),
    TextList {
        borders: Offsets<i64>,
        texts: TextColumn,
        valid: MutableBitmap,
    },
    Integer(PrimitiveChunkedBuilder<Int64Type>),
    Float(PrimitiveChunkedBuilder<Float64Type>),
    Boolean(BooleanChunkedBuilder),
    Timestamp(PrimitiveChunkedBuilder<Int64Type>, TimeUnit),
}

impl Frame {
    pub(super) fn new(dataset: &Dataset, rows: usize) -> Self {
        let own = dataset
            .columns()
            .iter()
            .map(|column| (PlSmallStr::from(column.name.as_str()), column.column_type));
        let mut columns: Vec<(PlSmallStr, Builder)> = own
            .chain([(PlSmallStr::from(lake::OFFSET), ColumnType::Integer)])
            .map(|(name, column_type)| (name.clone(), Builder::new(name, column_type, rows)))
            .collect();
        let timestamp = PlSmallStr::from(lake::TIMESTAMP);
        columns.push((
            timestamp.clone(),
            Builder::Timestamp(
                PrimitiveChunkedBuilder::new(timestamp, rows),
                TimeUnit::Milliseconds,
            ),
        ));
        Self {
            columns,
            partitions: Vec::with_capacity(rows),
        }
    }

    /// Adds the rows that stay.
    pub(super) fn add(
        &mut self,
        rows: Rows,
        partition: i32,
        superseded: &Superseded,
    ) -> PolarsResult<()> {
        let stay = rows.count - superseded.count();
        for ((_, builder), plain) in self.columns.iter_mut().zip(rows.columns) {
            builder.add(plain, superseded)?;
        }
        self.partitions
            .resize(self.partitions.len() + stay, partition);
        Ok(())
    }

    /// The columns of the dataset, then partition, offset and timestamp of the message.
    pub(super) fn finish(self) -> PolarsResult<DataFrame> {
        let rows = self.partitions.len();
        let mut columns = self
            .columns
            .into_iter()
            .map(|(name, builder)| builder.finish(name))
            .collect::<PolarsResult<Vec<Column>>>()?;
        let before_offset = columns.len() - 2;
        columns.insert(
            before_offset,
            Column::new(lake::PARTITION.into(), self.partitions),
        );
        DataFrame::new(rows, columns)
    }
}

impl Builder {
    fn new(name: PlSmallStr, column_type: ColumnType, rows: usize) -> Self {
        match column_type {
            ColumnType::Text | ColumnType::Json => Self::Text(TextColumn::with_capacity(rows)),
            ColumnType::Integer => Self::Integer(PrimitiveChunkedBuilder::new(name, rows)),
            ColumnType::Float => Self::Float(PrimitiveChunkedBuilder::new(name, rows)),
            ColumnType::Boolean => Self::Boolean(BooleanChunkedBuilder::new(name, rows)),
            ColumnType::Timestamp => Self::Timestamp(
                PrimitiveChunkedBuilder::new(name, rows),
                TimeUnit::Microseconds,
            ),
            ColumnType::TextList => Self::TextList {
                borders: Offsets::with_capacity(rows),
                texts: TextColumn::with_capacity(0),
                valid: MutableBitmap::with_capacity(rows),
            },
        }
    }

    fn add(&mut self, plain: Plain, superseded: &Superseded) -> PolarsResult<()> {
        match self {
            Self::Text(column) => {
                let mut texts = column.begin(&plain)?;
                for (row, length) in lengths(&plain.fixed).enumerate() {
                    let text = texts.next(length)?;
                    if superseded.stays(row) {
                        column.push(text);
                    }
                }
                column.end(plain.texts);
            }
            Self::TextList {
                borders,
                texts: column,
                valid,
            } => {
                let mut texts = column.begin(&plain)?;
                let mut lengths = lengths(&plain.fixed);
                let mut row = 0;
                while let Some(count) = lengths.next() {
                    let stays = superseded.stays(row);
                    let count = (count != NULL).then_some(count as usize);
                    for length in lengths.by_ref().take(count.unwrap_or(0)) {
                        let text = texts.next(length)?;
                        if stays {
                            column.push(text);
                        }
                    }
                    if stays {
                        borders.try_push(count.unwrap_or(0))?;
                        valid.push(count.is_some());
                    }
                    row += 1;
                }
                column.end(plain.texts);
            }
            Self::Boolean(builder) => {
                for (row, value) in plain.fixed.iter().enumerate() {
                    if superseded.stays(row) {
                        builder.append_option((*value != 2).then_some(*value == 1));
                    }
                }
            }
            Self::Integer(builder) | Self::Timestamp(builder, _) => {
                for value in staying(&plain, superseded) {
                    builder.append_option(value.map(i64::from_le_bytes));
                }
            }
            Self::Float(builder) => {
                for value in staying(&plain, superseded) {
                    builder.append_option(value.map(f64::from_le_bytes));
                }
            }
        }
        Ok(())
    }

    fn finish(self, name: PlSmallStr) -> PolarsResult<Column> {
        Ok(match self {
            Self::Text(column) => Series::try_from((name, column.finish()?.boxed()))?.into_column(),
            Self::TextList {
                borders,
                texts,
                valid,
            } => {
                let texts = texts.finish()?;
                let list = ListArray::<i64>::try_new(
                    ListArray::<i64>::default_datatype(texts.dtype().clone()),
                    OffsetsBuffer::from(borders),
                    texts.boxed(),
                    valid.into(),
                )?;
                Series::try_from((name, list.boxed()))?.into_column()
            }
            Self::Integer(builder) => builder.finish().into_column(),
            Self::Float(builder) => builder.finish().into_column(),
            Self::Boolean(builder) => builder.finish().into_column(),
            Self::Timestamp(builder, unit) => {
                builder.finish().into_datetime(unit, None).into_column()
            }
        })
    }
}

/// A column of texts that lie in the buffers of several objects.
struct TextColumn {
    views: Vec<View>,
    valid: MutableBitmap,
    buffers: Vec<Buffer<u8>>,
}

impl TextColumn {
    fn with_capacity(rows: usize) -> Self {
        Self {
            views: Vec::with_capacity(rows),
            valid: MutableBitmap::with_capacity(rows),
            buffers: Vec::new(),
        }
    }

    /// Reads the texts of an object, which [`Self::end`] then keeps.
    fn begin<'p>(&self, plain: &'p Plain) -> PolarsResult<Texts<'p>> {
        Texts::of(plain, self.buffers.len())
    }

    fn push(&mut self, view: Option<View>) {
        self.views.push(view.unwrap_or_default());
        self.valid.push(view.is_some());
    }

    fn end(&mut self, texts: Vec<u8>) {
        self.buffers.push(Buffer::from(texts));
    }

    fn finish(self) -> PolarsResult<Utf8ViewArray> {
        Utf8ViewArray::try_new(
            ArrowDataType::Utf8View,
            self.views.into(),
            self.buffers.into(),
            self.valid.into(),
        )
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

/// The texts of a column, one after the other, as views of one buffer. That they are UTF-8 is checked when the column is finished.
struct Texts<'p> {
    all: &'p [u8],
    at: u32,
    buffer: u32,
}

impl<'p> Texts<'p> {
    fn of(plain: &'p Plain, buffer: usize) -> PolarsResult<Self> {
        let too_many = |_| polars_err!(ComputeError: "the rows of one object are too large");
        u32::try_from(plain.texts.len()).map_err(too_many)?;
        Ok(Self {
            all: &plain.texts,
            at: 0,
            buffer: u32::try_from(buffer).map_err(too_many)?,
        })
    }

    fn next(&mut self, length: u32) -> PolarsResult<Option<View>> {
        if length == NULL {
            return Ok(None);
        }
        let text = self
            .all
            .get(self.at as usize..self.at as usize + length as usize)
            .ok_or_else(|| polars_err!(ComputeError: "the temporary file was changed"))?;
        let view = View::new_from_bytes(text, self.buffer, self.at);
        self.at += length;
        Ok(Some(view))
    }
}
