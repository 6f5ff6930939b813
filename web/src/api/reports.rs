//! `/api/v1/reports`

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    WebState,
    failure::{Failure, Problem},
    pages::reports::{away, reports},
};

/// What runs kept of reports.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeptReports {
    /// By name and then from the newest logical date to the oldest.
    reports: Vec<KeptReport>,
}

/// What one run kept of one report.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeptReport {
    /// The report's name.
    #[schema(example = "posts_by_category")]
    report: String,
    /// Logical date and run, as they stand in addresses.
    #[schema(example = "20260101T020000Z-r7")]
    kept: String,
    /// The run.
    run_id: i64,
    /// Where each file of it is read, such as `/reports/posts_by_category/20260101T020000Z-r7/csv`.
    files: Vec<String>,
}

impl From<crate::KeptReport> for KeptReport {
    fn from(row: crate::KeptReport) -> Self {
        let address = |format: &String| format!("/reports/{}/{}/{format}", row.report, row.kept);
        Self {
            files: row.formats.iter().map(address).collect(),
            report: row.report,
            kept: row.kept,
            run_id: row.run_id,
        }
    }
}

/// Kept reports
///
/// All that tasks of kind `report` have written below `lake.reports_prefix`.
#[utoipa::path(
    get, path = "/api/v1/reports", tag = "Reports",
    responses(
        (status = 200, description = "What is kept", body = KeptReports),
        (status = 404, description = "The process has no object store", body = Problem, content_type = "application/problem+json"),
        (status = 502, description = "The object store does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(State(state): State<WebState>) -> Result<Json<KeptReports>, Failure> {
    let kept = reports(&state)?.list().await.map_err(away)?;
    Ok(Json(KeptReports {
        reports: kept.into_iter().map(KeptReport::from).collect(),
    }))
}

/// What runs kept of one report
///
/// From the newest logical date to the oldest.
#[utoipa::path(
    get, path = "/api/v1/reports/{report}", tag = "Reports",
    params(("report" = String, Path, description = "The report's name")),
    responses(
        (status = 200, description = "What is kept", body = KeptReports),
        (status = 404, description = "Nothing is kept under that name", body = Problem, content_type = "application/problem+json"),
        (status = 502, description = "The object store does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn runs(
    State(state): State<WebState>,
    Path(report): Path<String>,
) -> Result<Json<KeptReports>, Failure> {
    let kept = reports(&state)?.runs(&report).await.map_err(away)?;
    if kept.is_empty() {
        return Err(Failure::missing("report", report));
    }
    Ok(Json(KeptReports {
        reports: kept.into_iter().map(KeptReport::from).collect(),
    }))
}
