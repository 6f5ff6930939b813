//! The kept reports as this crate sees them: somebody else reads them where they are kept and draws their charts.

use async_trait::async_trait;

/// Finds kept reports.
#[async_trait]
pub trait Reports: Send + Sync {
    /// All of them, by name and then from the newest logical date to the oldest.
    ///
    /// # Errors
    /// Says why they cannot be listed.
    async fn list(&self) -> Result<Vec<KeptReport>, String>;

    /// What runs kept of one report, from the newest logical date to the oldest.
    ///
    /// # Errors
    /// See [`Self::list`].
    async fn runs(&self, report: &str) -> Result<Vec<KeptReport>, String>;

    /// A report of a run; `None` when it is not there. Its charts are SVG whose values are escaped.
    ///
    /// # Errors
    /// Says why it cannot be read.
    async fn read(&self, report: &str, kept: &str) -> Result<Option<ReportShown>, String>;

    /// A file of it by its format; `None` when it is not there.
    ///
    /// # Errors
    /// Says why it cannot be read.
    async fn file(
        &self,
        report: &str,
        kept: &str,
        format: &str,
    ) -> Result<Option<ReportFile>, String>;
}

/// What one run kept of one report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptReport {
    /// The report's name.
    pub report: String,
    /// The name of its folder, which stands in addresses: logical date and run.
    pub kept: String,
    /// The logical date, as people read it.
    pub logical_date: String,
    /// The run.
    pub run_id: i64,
    /// The formats that were written, such as `csv`.
    pub formats: Vec<String>,
}

/// A report of a run, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportShown {
    /// The title.
    pub title: String,
    /// What its SQL file says about it.
    pub description: String,
    /// The DAG.
    pub dag: String,
    /// The run.
    pub run_id: i64,
    /// The logical date, as people read it.
    pub logical_date: String,
    /// The charts, each a `<figure>` with an SVG whose values are escaped.
    pub charts: Vec<String>,
    /// The columns.
    pub columns: Vec<ReportColumn>,
    /// The first rows; null is `None`.
    pub rows: Vec<Vec<Option<String>>>,
    /// How many rows there are.
    pub all_rows: usize,
    /// Parameters and their values.
    pub params: Vec<(String, String)>,
    /// The question.
    pub sql: String,
    /// The views that it may read: name and SQL.
    pub views: Vec<(String, String)>,
}

/// A column of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportColumn {
    /// The name.
    pub name: String,
    /// Whether it holds numbers.
    pub is_numeric: bool,
}

/// A file of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportFile {
    /// The MIME type.
    pub content_type: &'static str,
    /// What is in it.
    pub body: Vec<u8>,
}
