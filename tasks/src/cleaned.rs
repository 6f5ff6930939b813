//! The rows of one cleaned partition, for the kinds that carry them into another store: the manifest that `clean` wrote, then its
//! parts a slice at a time, each value as text. Nothing is read that the manifest does not name, and no part that was changed.

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, TimeDelta};
use polars::prelude::*;

use crate::{
    Failure, blocking,
    lake::{Part, Partition},
    s3::{Location, ObjectStore, sha256},
};

/// So many rows are in memory at once: what Parquet writers put into one row group, so that none is decoded twice.
const ROWS_AT_ONCE: usize = 262_144;

/// A cleaned partition and where its parts are.
pub(crate) struct Cleaned {
    store: ObjectStore,
    bucket: String,
    /// The manifest.
    pub(crate) partition: Partition,
}

/// Rows of one part that follow each other.
pub(crate) struct Slice {
    /// The part's address.
    pub(crate) part: String,
    /// The place of the first row in the part, from 0.
    pub(crate) first_row: usize,
    /// The columns that were asked for.
    pub(crate) rows: DataFrame,
}

/// One part, of which some rows have been read.
pub(crate) struct PartReader {
    address: String,
    body: Bytes,
    columns: Vec<String>,
    rows: usize,
    next: usize,
}

impl Cleaned {
    /// Reads the manifest at `from`.
    pub(crate) async fn open(store: &ObjectStore, from: &Location) -> Result<Self, Failure> {
        let text = store.get(from).await?;
        let partition = Partition::from_json(&text).map_err(|error| {
            Failure::permanent(format!(
                "`{from}` is no manifest of a cleaned partition: {error}"
            ))
            .with_hint("give the `manifest` output of a `clean` task")
        })?;
        Ok(Self {
            store: store.clone(),
            bucket: from.bucket.clone(),
            partition,
        })
    }

    /// How many rows the manifest names.
    pub(crate) fn rows(&self) -> u64 {
        self.partition.parts.iter().map(|part| part.rows).sum()
    }

    /// Checks that the dataset has these columns; `field` is the key that names them.
    pub(crate) fn check_columns<'c>(
        &self,
        field: &str,
        names: impl IntoIterator<Item = &'c str>,
    ) -> Result<(), Failure> {
        let known: Vec<&str> = self
            .partition
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        for name in names {
            if !known.contains(&name) {
                return Err(Failure::permanent(format!(
                    "`{field}` names the column `{name}`, which dataset `{}` does not have",
                    self.partition.dataset
                ))
                .with_hint(format!("its columns are {}", known.join(", "))));
            }
        }
        Ok(())
    }

    /// Opens a part to read `columns` of it.
    pub(crate) async fn part(
        &self,
        part: &Part,
        columns: &[String],
    ) -> Result<PartReader, Failure> {
        let at = Location::new(&self.bucket, &part.key);
        let body = self.store.get(&at).await?;
        let checked = body.clone();
        let found = blocking::run(move || sha256(&checked)).await?;
        if found != part.sha256 {
            return Err(Failure::permanent(format!(
                "`{at}` was changed after it was written: its SHA-256 is {found}, the manifest says {}",
                part.sha256
            )));
        }
        let rows = usize::try_from(part.rows).map_err(|_| {
            Failure::permanent(format!("the manifest gives `{at}` {} rows", part.rows))
        })?;
        Ok(PartReader {
            address: at.to_string(),
            body,
            columns: columns.to_vec(),
            rows,
            next: 0,
        })
    }
}

impl PartReader {
    /// The next rows; `None` at the part's end.
    pub(crate) async fn next(&mut self) -> Result<Option<Slice>, Failure> {
        if self.next >= self.rows {
            return Ok(None);
        }
        let (first_row, count) = (self.next, ROWS_AT_ONCE.min(self.rows - self.next));
        let (body, columns) = (self.body.clone(), self.columns.clone());
        let read = blocking::run(move || {
            ParquetReader::new(std::io::Cursor::new(body))
                .with_columns(Some(columns))
                .with_slice(Some((first_row, count)))
                .finish()
        });
        let address = &self.address;
        let rows = read
            .await?
            .map_err(|error| Failure::permanent(format!("`{address}` cannot be read: {error}")))?;
        if rows.height() != count {
            return Err(Failure::permanent(format!(
                "`{address}` has {} rows where the manifest says {}",
                first_row + rows.height(),
                self.rows
            )));
        }
        self.next += count;
        Ok(Some(Slice {
            part: self.address.clone(),
            first_row,
            rows,
        }))
    }
}

/// The values of a row's column, of which a list has several.
pub(crate) enum Value<'v> {
    /// One value as text.
    One(std::borrow::Cow<'v, str>),
    /// The items of a list; those that are null are `None`.
    Many(Vec<Option<String>>),
}

/// The value of `column` in `row`; `None` when it is null. Instants are RFC 3339 in UTC.
///
/// # Errors
/// The column has a type that no dataset has.
pub(crate) fn value(column: &Column, row: usize) -> PolarsResult<Option<Value<'_>>> {
    let found = column.get(row)?;
    if let AnyValue::List(items) = &found {
        let items = items
            .iter()
            .map(|item| Ok(plain(&item)?.map(std::borrow::Cow::into_owned)))
            .collect::<PolarsResult<_>>()?;
        return Ok(Some(Value::Many(items)));
    }
    // What is borrowed from the column lives as long as it does.
    Ok(match found {
        AnyValue::String(text) => Some(Value::One(text.into())),
        other => plain(&other)?.map(|text| Value::One(text.into_owned().into())),
    })
}

fn plain<'v>(value: &'v AnyValue<'_>) -> PolarsResult<Option<std::borrow::Cow<'v, str>>> {
    let text = match value {
        AnyValue::Null => return Ok(None),
        AnyValue::String(text) => (*text).into(),
        AnyValue::StringOwned(text) => text.as_str().into(),
        AnyValue::Boolean(truth) => truth.to_string().into(),
        AnyValue::Int64(number) => number.to_string().into(),
        AnyValue::Int32(number) => number.to_string().into(),
        AnyValue::Int16(number) => number.to_string().into(),
        AnyValue::Int8(number) => number.to_string().into(),
        AnyValue::UInt64(number) => number.to_string().into(),
        AnyValue::UInt32(number) => number.to_string().into(),
        AnyValue::UInt16(number) => number.to_string().into(),
        AnyValue::UInt8(number) => number.to_string().into(),
        AnyValue::Float64(number) => number.to_string().into(),
        AnyValue::Float32(number) => number.to_string().into(),
        AnyValue::Date(days) => (NaiveDate::default() + TimeDelta::days(i64::from(*days)))
            .to_string()
            .into(),
        AnyValue::Datetime(count, unit, _) | AnyValue::DatetimeOwned(count, unit, _) => {
            instant(*count, *unit)?.into()
        }
        other => polars_bail!(ComputeError: "a value of type {} has no text", other.dtype()),
    };
    Ok(Some(text))
}

fn instant(count: i64, unit: TimeUnit) -> PolarsResult<String> {
    let instant = match unit {
        TimeUnit::Nanoseconds => Some(DateTime::from_timestamp_nanos(count)),
        TimeUnit::Microseconds => DateTime::from_timestamp_micros(count),
        TimeUnit::Milliseconds => DateTime::from_timestamp_millis(count),
    }
    .ok_or_else(|| polars_err!(ComputeError: "{count} is beyond every calendar"))?;
    Ok(instant.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(column: &Column, row: usize) -> Option<String> {
        value(column, row).unwrap().map(|value| match value {
            Value::One(text) => text.into_owned(),
            Value::Many(items) => format!("{items:?}"),
        })
    }

    #[test]
    fn every_type_of_a_dataset_has_a_text_and_null_has_none() {
        let rows = df!(
            "text" => [Some("é"), None],
            "number" => [Some(-3_i64), None],
            "truth" => [Some(true), None],
            "real" => [Some(0.5), None],
            "at" => [Some(1_598_586_767_000_000_i64), None],
        )
        .unwrap();
        let at = rows
            .column("at")
            .unwrap()
            .cast(&DataType::Datetime(TimeUnit::Microseconds, None))
            .unwrap();
        let tags = Column::new(
            "tags".into(),
            [
                Series::new("".into(), ["a", "b"]),
                Series::new("".into(), [""; 0]),
            ],
        );
        assert_eq!(text(rows.column("text").unwrap(), 0).as_deref(), Some("é"));
        assert_eq!(
            text(rows.column("number").unwrap(), 0).as_deref(),
            Some("-3")
        );
        assert_eq!(
            text(rows.column("truth").unwrap(), 0).as_deref(),
            Some("true")
        );
        assert_eq!(
            text(rows.column("real").unwrap(), 0).as_deref(),
            Some("0.5")
        );
        assert_eq!(text(&at, 0).as_deref(), Some("2020-08-28T03:52:47Z"));
        assert_eq!(text(&tags, 0).as_deref(), Some(r#"[Some("a"), Some("b")]"#));
        assert_eq!(text(&tags, 1).as_deref(), Some("[]"));
        for name in ["text", "number", "truth", "real"] {
            assert_eq!(text(rows.column(name).unwrap(), 1), None);
        }
        assert_eq!(text(&at, 1), None);
    }
}
