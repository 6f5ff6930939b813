//! A report with its answer: what every format is written from, and what its JSON is read back as.

use polars::prelude::*;
use serde_json::{Map, Value, json};

use super::{answer::Answer, chart::Chart, page, request::Format};
use crate::query::{self, Formulas};

/// One report of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The name, which is that of its folder.
    pub name: String,
    /// The title.
    pub title: String,
    /// What the comment at the top of the SQL says.
    pub description: String,
    /// The question.
    pub sql: String,
    /// The views that the question may read: name and SQL.
    pub views: Vec<(String, String)>,
    /// The values of the parameters.
    pub params: Map<String, Value>,
    /// The DAG.
    pub dag_id: String,
    /// The run.
    pub run_id: i64,
    /// Its logical date, as people read it.
    pub logical_date: String,
    /// The charts that the report asks for; without any the usual one is drawn.
    pub charts: Vec<Chart>,
    /// The answer.
    pub answer: Answer,
}

impl Written {
    /// The charts as SVG, each in a `<figure>`. Every value in them is escaped.
    pub fn drawn(&self) -> Vec<String> {
        let usual = Chart::usual(&self.answer);
        let charts = if self.charts.is_empty() {
            usual.as_slice()
        } else {
            self.charts.as_slice()
        };
        charts
            .iter()
            .filter_map(|chart| chart.draw(&self.answer))
            .collect()
    }

    /// Reads a report's JSON; `None` when it is something else.
    pub fn from_json(text: &[u8]) -> Option<Self> {
        let report: Map<String, Value> = serde_json::from_slice(text).ok()?;
        let text = |key: &str| report.get(key)?.as_str().map(str::to_owned);
        let list = |key: &str| report.get(key).and_then(Value::as_array);
        let view = |view: &Value| {
            let part = |key: &str| view.get(key)?.as_str().map(str::to_owned);
            Some((part("name")?, part("sql")?))
        };
        Some(Self {
            name: text("name")?,
            title: text("title")?,
            description: text("description")?,
            sql: text("sql")?,
            views: list("views")
                .into_iter()
                .flatten()
                .map(view)
                .collect::<Option<_>>()?,
            params: report
                .get("params")
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default(),
            dag_id: text("dag")?,
            run_id: report.get("run")?.as_i64()?,
            logical_date: text("logical_date")?,
            charts: list("charts")
                .into_iter()
                .flatten()
                .map(|chart| Chart::read(chart).ok())
                .collect::<Option<_>>()?,
            answer: Answer::from_json(&report)?,
        })
    }

    fn to_json(&self) -> Vec<u8> {
        let (columns, rows) = self.answer.to_json();
        let views: Value = self
            .views
            .iter()
            .map(|(name, sql)| json!({ "name": name, "sql": sql }))
            .collect();
        let charts: Value = self.charts.iter().map(Chart::to_json).collect();
        let report = json!({
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "sql": self.sql,
            "views": views,
            "params": self.params,
            "dag": self.dag_id,
            "run": self.run_id,
            "logical_date": self.logical_date,
            "charts": charts,
            "columns": columns,
            "rows": rows,
        });
        format!("{report:#}\n").into_bytes()
    }

    /// The report in one format. `rows` are those of its answer.
    pub(super) fn body(&self, format: Format, rows: &DataFrame) -> PolarsResult<Vec<u8>> {
        match format {
            Format::Csv => {
                Ok(query::render(rows, query::Format::Csv(Formulas::Disarmed))?.into_bytes())
            }
            Format::Html => Ok(page::html(self).into_bytes()),
            Format::Json => Ok(self.to_json()),
            Format::Parquet => {
                let mut body = Vec::new();
                ParquetWriter::new(&mut body)
                    .with_compression(ParquetCompression::Zstd(None))
                    .with_statistics(StatisticsOptions::full())
                    .finish(&mut rows.clone())?;
                Ok(body)
            }
        }
    }
}
