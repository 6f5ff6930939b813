//! Reports: which are kept, what each run answered, and the files to take along.

use askama::Template;
use axum::{
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{Layout, render};
use crate::{
    KeptReport, ReportShown, Reports, WebState,
    failure::Failure,
    format::{count, plain},
};

#[derive(Template)]
#[template(path = "reports.html")]
struct ReportsPage {
    layout: Layout,
    /// Reports can be read here at all.
    configured: bool,
    headline: String,
    lines: Vec<Line>,
}

/// A report with its newest run.
struct Line {
    newest: KeptReport,
    runs: String,
}

#[derive(Template)]
#[template(path = "report_runs.html")]
struct RunsPage {
    layout: Layout,
    report: String,
    headline: String,
    runs: Vec<KeptReport>,
}

#[derive(Template)]
#[template(path = "report.html")]
struct ReportPage {
    layout: Layout,
    kept: KeptReport,
    shown: ReportShown,
    /// Runs of other dates, to step through: the next older and the next newer.
    older: String,
    newer: String,
    left_out: usize,
}

/// `GET /reports`
pub(crate) async fn page(State(state): State<WebState>) -> Result<Response, Failure> {
    let kept = match &state.reports {
        Some(reports) => reports.list().await.map_err(away)?,
        None => Vec::new(),
    };
    let lines: Vec<Line> = kept
        .chunk_by(|one, other| one.report == other.report)
        .filter_map(|runs| {
            Some(Line {
                newest: runs.first()?.clone(),
                runs: count(runs.len(), "run", "runs"),
            })
        })
        .collect();
    render(&ReportsPage {
        layout: Layout::new("reports", "Reports"),
        configured: state.reports.is_some(),
        headline: count(lines.len(), "report", "reports"),
        lines,
    })
}

/// `GET /reports/{report}`
pub(crate) async fn runs(
    State(state): State<WebState>,
    Path(report): Path<String>,
) -> Result<Response, Failure> {
    let runs = reports(&state)?.runs(&report).await.map_err(away)?;
    if runs.is_empty() {
        return Err(Failure::missing("report", plain(&report)));
    }
    render(&RunsPage {
        layout: Layout::new("reports", report.clone()),
        report,
        headline: count(runs.len(), "run", "runs"),
        runs,
    })
}

/// `GET /reports/{report}/{kept}`
pub(crate) async fn show(
    State(state): State<WebState>,
    Path((report, wanted)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let reports = reports(&state)?;
    let runs = reports.runs(&report).await.map_err(away)?;
    let missing = || Failure::missing("report", plain(&format!("{report}/{wanted}")));
    let place = runs
        .iter()
        .position(|run| run.kept == wanted)
        .ok_or_else(missing)?;
    let address = |run: Option<&KeptReport>| {
        run.map(|run| format!("/reports/{}/{}", run.report, run.kept))
            .unwrap_or_default()
    };
    let shown = reports
        .read(&report, &wanted)
        .await
        .map_err(away)?
        .ok_or_else(|| {
            missing().hint("a report is shown from its JSON, which this one was written without")
        })?;
    let shown = steady(shown);
    render(&ReportPage {
        layout: Layout::new("reports", shown.title.clone()),
        kept: runs[place].clone(),
        left_out: shown.all_rows - shown.rows.len(),
        shown,
        older: address(runs.get(place + 1)),
        newer: address(place.checked_sub(1).and_then(|newer| runs.get(newer))),
    })
}

/// `GET /reports/{report}/{kept}/{format}`
pub(crate) async fn file(
    State(state): State<WebState>,
    Path((report, kept, format)): Path<(String, String, String)>,
) -> Result<Response, Failure> {
    let found = reports(&state)?
        .file(&report, &kept, &format)
        .await
        .map_err(away)?;
    let Some(file) = found else {
        let name = format!("{report}/{kept}/{format}");
        return Err(Failure::missing("report", plain(&name)));
    };
    // Always saved and never shown: a page out of a bucket has no business on our own address.
    let headers = [
        (header::CONTENT_TYPE, file.content_type.to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{report}-{kept}.{format}\""),
        ),
    ];
    Ok((headers, file.body).into_response())
}

/// Without what steers a page or a terminal: titles come from DAG files, cells from whoever posts.
fn steady(mut shown: ReportShown) -> ReportShown {
    let columns = shown.columns.iter_mut().map(|column| &mut column.name);
    let pairs = shown.params.iter_mut().chain(&mut shown.views);
    let texts = [
        &mut shown.title,
        &mut shown.description,
        &mut shown.dag,
        &mut shown.sql,
    ];
    let all = texts
        .into_iter()
        .chain(columns)
        .chain(pairs.flat_map(|(name, value)| [name, value]))
        .chain(shown.rows.iter_mut().flatten().flatten());
    for text in all {
        *text = plain(text);
    }
    shown
}

pub(crate) fn reports(state: &WebState) -> Result<&dyn Reports, Failure> {
    state.reports.as_deref().ok_or_else(|| {
        Failure::new(StatusCode::NOT_FOUND, "No reports here")
            .detail("this process has no settings for S3, where reports are kept")
            .hint("give it `s3.endpoint`, as the workers have")
    })
}

pub(crate) fn away(why: String) -> Failure {
    tracing::warn!(%why, "reports could not be read");
    Failure::new(StatusCode::BAD_GATEWAY, "The reports cannot be read")
        .detail(why)
        .hint("reports are kept below `lake.reports_prefix`; see whether the object store answers")
}
