//! The `with` table of a `report` task, read and checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path},
};

use serde_json::{Map, Value};

use super::chart::Chart;
use crate::{Failure, s3::Location};

/// One report to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) sql: String,
    pub(super) charts: Vec<Chart>,
}

/// A view that reports may read: its name and its SQL file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedView {
    pub(super) name: String,
    pub(super) sql: String,
}

/// The `with` table, read.
pub(super) struct Request {
    pub(super) reports: Vec<Wanted>,
    pub(super) views: Vec<WantedView>,
    pub(super) datasets: BTreeMap<String, Location>,
    pub(super) params: Map<String, Value>,
    pub(super) to: Location,
    pub(super) formats: Vec<Format>,
}

/// A form in which a report is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180, with formulas disarmed.
    Csv,
    /// Everything that is known of the report, and its rows.
    Json,
    /// The rows with their types.
    Parquet,
    /// A page of its own.
    Html,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Csv, Self::Json, Self::Parquet, Self::Html];

    /// The format of that word.
    pub fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.word() == word)
    }

    /// The word in DAG files, which is the ending of the file as well.
    pub fn word(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Parquet => "parquet",
            Self::Html => "html",
        }
    }

    /// The MIME type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8",
            Self::Json => "application/json",
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Html => "text/html; charset=utf-8",
        }
    }
}

/// A mistake in the `with` table: the key and the words.
pub(super) type Mistake = (Option<String>, String);

impl Request {
    pub(super) fn read(with: &Map<String, Value>) -> Result<Self, Failure> {
        let mistaken = |(_, message): Mistake| Failure::permanent(message);
        let table = with
            .get("datasets")
            .and_then(Value::as_object)
            .ok_or_else(|| Failure::permanent("`datasets` must be a table"))?;
        let mut datasets = BTreeMap::new();
        for (name, address) in table {
            let address = address.as_str().ok_or_else(|| {
                Failure::permanent(format!("the address of dataset `{name}` must be a string"))
            })?;
            datasets.insert(name.clone(), address.parse::<Location>()?);
        }
        let to = with
            .get("to")
            .and_then(Value::as_str)
            .ok_or_else(|| Failure::permanent("`to` must be a string"))?;
        Ok(Self {
            reports: wanted_reports(with).map_err(mistaken)?,
            views: wanted_views(with).map_err(mistaken)?,
            datasets,
            params: match with.get("params") {
                None => Map::new(),
                Some(Value::Object(params)) => params.clone(),
                Some(_) => return Err(Failure::permanent("`params` must be a table")),
            },
            to: to.parse()?,
            formats: wanted_formats(with).map_err(mistaken)?,
        })
    }
}

pub(super) fn wanted_reports(with: &Map<String, Value>) -> Result<Vec<Wanted>, Mistake> {
    let reports = match (with.get("sql"), with.get("reports")) {
        (Some(_), None) => {
            let entry: Map<String, Value> = with
                .iter()
                .filter(|(key, _)| matches!(key.as_str(), "sql" | "title" | "charts"))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            vec![wanted(&entry)?]
        }
        (None, Some(Value::Array(list))) if !list.is_empty() => {
            let entry = |value: &Value| match value {
                Value::Object(entry) => wanted(entry),
                _ => Err((
                    Some("reports".to_owned()),
                    "`reports` must be a list of tables".to_owned(),
                )),
            };
            list.iter().map(entry).collect::<Result<_, _>>()?
        }
        (None, Some(_)) => {
            return Err((
                Some("reports".to_owned()),
                "`reports` must be a list of tables with at least one".to_owned(),
            ));
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err((
                None,
                "exactly one of `sql` and `reports` must be given".to_owned(),
            ));
        }
    };
    let mut names = BTreeSet::new();
    match reports
        .iter()
        .find(|report| !names.insert(report.name.clone()))
    {
        Some(twice) => Err((
            Some("reports".to_owned()),
            format!("two reports are named `{}`", twice.name),
        )),
        None => Ok(reports),
    }
}

fn wanted(entry: &Map<String, Value>) -> Result<Wanted, Mistake> {
    let mistake = |message: String| (Some("reports".to_owned()), message);
    if let Some(key) = entry
        .keys()
        .find(|key| !matches!(key.as_str(), "name" | "title" | "sql" | "charts"))
    {
        return Err(mistake(format!(
            "unknown key `{key}` in a report; the keys are name, title, sql, charts"
        )));
    }
    let text = |key: &str| match entry.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(mistake(format!("`{key}` of a report must be a string"))),
    };
    let sql = text("sql")?.ok_or_else(|| mistake("a report has no `sql`".to_owned()))?;
    check_path(&sql).map_err(|message| (Some("sql".to_owned()), message))?;
    let stem = Path::new(&sql)
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let name = text("name")?.unwrap_or_else(|| stem.to_owned());
    if !is_report_name(&name) && !name.contains("{{") {
        return Err(mistake(format!(
            "`{}` is no report name: expected letters, digits, `-` and `_`, at most 32",
            name.escape_debug()
        )));
    }
    Ok(Wanted {
        title: text("title")?.unwrap_or_else(|| name.clone()),
        charts: wanted_charts(entry)?,
        name,
        sql,
    })
}

fn wanted_charts(entry: &Map<String, Value>) -> Result<Vec<Chart>, Mistake> {
    let mistake = |message: String| (Some("charts".to_owned()), message);
    match entry.get("charts") {
        None => Ok(Vec::new()),
        Some(Value::Array(charts)) => charts
            .iter()
            .map(|chart| Chart::read(chart).map_err(mistake))
            .collect(),
        Some(_) => Err(mistake("`charts` must be a list of tables".to_owned())),
    }
}

/// The views in their order: a view reads the datasets and the views before it.
pub(super) fn wanted_views(with: &Map<String, Value>) -> Result<Vec<WantedView>, Mistake> {
    let mistake = |message: String| (Some("views".to_owned()), message);
    let views = match with.get("views") {
        None => return Ok(Vec::new()),
        Some(Value::Array(views)) => views,
        Some(_) => return Err(mistake("`views` must be a list of tables".to_owned())),
    };
    let mut names: BTreeSet<&str> = with
        .get("datasets")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|datasets| datasets.keys().map(String::as_str))
        .collect();
    let mut wanted = Vec::with_capacity(views.len());
    for view in views {
        let text = |key: &str| view.get(key).and_then(Value::as_str);
        let (Some(name), Some(sql), Some(2)) =
            (text("name"), text("sql"), view.as_object().map(Map::len))
        else {
            return Err(mistake(
                "a view is a table with `name` and `sql`, both strings".to_owned(),
            ));
        };
        if !is_table_name(name) {
            return Err(mistake(format!(
                "`{}` is no name of a view: expected lower-case letters, digits and `_`, a letter first, at most 64",
                name.escape_debug()
            )));
        }
        check_path(sql).map_err(mistake)?;
        if !names.insert(name) {
            return Err(mistake(format!("two datasets or views are named `{name}`")));
        }
        wanted.push(WantedView {
            name: name.to_owned(),
            sql: sql.to_owned(),
        });
    }
    Ok(wanted)
}

fn is_table_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Whether a report may have that name, which becomes part of keys and addresses.
pub(super) fn is_report_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

pub(super) fn wanted_formats(with: &Map<String, Value>) -> Result<Vec<Format>, Mistake> {
    let Some(given) = with.get("formats") else {
        return Ok(Format::ALL.to_vec());
    };
    let mistake = |found: &Value| {
        (
            Some("formats".to_owned()),
            format!("unknown format {found}"),
        )
    };
    let Some(list) = given.as_array() else {
        return Err((
            Some("formats".to_owned()),
            "`formats` must be a list".to_owned(),
        ));
    };
    if list.is_empty() {
        return Err((Some("formats".to_owned()), "`formats` is empty".to_owned()));
    }
    list.iter()
        .filter(|word| !word.as_str().is_some_and(|word| word.contains("{{")))
        .map(|word| {
            word.as_str()
                .and_then(Format::read)
                .ok_or_else(|| mistake(word))
        })
        .collect()
}

/// A SQL file is named by a path that cannot leave the DAG folder.
pub(super) fn check_path(path: &str) -> Result<(), String> {
    let stays_inside = !path.is_empty()
        && !path.contains('\\')
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
    if !stays_inside {
        return Err(format!(
            "`{}` must be a path below the DAG folder, without `..` and not absolute",
            path.escape_debug()
        ));
    }
    if Path::new(path)
        .extension()
        .is_none_or(|extension| extension != "sql")
    {
        return Err(format!("`{}` must name a `.sql` file", path.escape_debug()));
    }
    Ok(())
}
