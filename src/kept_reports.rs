//! The kept reports for the pages: read from the object store, their charts drawn from their own numbers.

use async_trait::async_trait;
use pinwheel_tasks::{
    Failure, S3Settings,
    report::{self, Archive, Format, Kept, Written},
    s3::{Location, ObjectStore},
};
use pinwheel_web::{KeptReport, ReportColumn, ReportFile, ReportShown, Reports};
use serde_json::Value;

/// What the pages are given to read reports with.
pub(crate) struct KeptReports(Archive);

impl KeptReports {
    /// The reports below `prefix` of a store.
    pub(crate) async fn new(s3: &S3Settings, prefix: Location) -> Self {
        Self(Archive::new(ObjectStore::connect(s3).await, prefix))
    }
}

#[async_trait]
impl Reports for KeptReports {
    async fn list(&self) -> Result<Vec<KeptReport>, String> {
        let kept = self.0.list().await.map_err(in_words)?;
        Ok(kept.into_iter().map(told).collect())
    }

    async fn runs(&self, report: &str) -> Result<Vec<KeptReport>, String> {
        let kept = self.0.runs(report).await.map_err(in_words)?;
        Ok(kept.into_iter().map(told).collect())
    }

    async fn read(&self, report: &str, kept: &str) -> Result<Option<ReportShown>, String> {
        let written = self.0.read(report, kept).await.map_err(in_words)?;
        Ok(written.map(shown))
    }

    async fn file(
        &self,
        report: &str,
        kept: &str,
        format: &str,
    ) -> Result<Option<ReportFile>, String> {
        let Some(format) = Format::read(format) else {
            return Ok(None);
        };
        let body = self.0.file(report, kept, format).await.map_err(in_words)?;
        Ok(body.map(|body| ReportFile {
            content_type: format.content_type(),
            body: body.to_vec(),
        }))
    }
}

fn in_words(failure: Failure) -> String {
    failure.message
}

fn told(kept: Kept) -> KeptReport {
    KeptReport {
        logical_date: kept
            .logical_date
            .format("%Y-%m-%d %H:%M:%S UTC")
            .to_string(),
        run_id: kept.run_id,
        formats: kept
            .formats
            .iter()
            .map(|format| format.word().to_owned())
            .collect(),
        report: kept.report,
        kept: kept.folder,
    }
}

fn shown(written: Written) -> ReportShown {
    let charts = written.drawn();
    let columns: Vec<ReportColumn> = written
        .answer
        .columns
        .iter()
        .map(|column| ReportColumn {
            name: column.name.clone(),
            is_numeric: column.is_numeric,
        })
        .collect();
    let cell = |column: &ReportColumn, value: &Value| match value {
        Value::Null => None,
        amount if column.is_numeric && !report::is_a_name(&column.name) => {
            Some(report::grouped(amount))
        }
        other => Some(report::plain(other)),
    };
    let rows = written
        .answer
        .rows
        .iter()
        .take(report::MOST_ROWS)
        .map(|row| {
            let cells = columns.iter().zip(row);
            cells.map(|(column, value)| cell(column, value)).collect()
        })
        .collect();
    ReportShown {
        title: written.title,
        description: written.description,
        dag: written.dag_id,
        run_id: written.run_id,
        logical_date: written.logical_date,
        charts,
        columns,
        rows,
        all_rows: written.answer.rows.len(),
        params: written
            .params
            .iter()
            .map(|(name, value)| (name.clone(), report::plain(value)))
            .collect(),
        sql: written.sql,
        views: written.views,
    }
}
