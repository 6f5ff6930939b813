//! Home: what needs me.

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use pinwheel_scheduler::store::FileErrorRow;

use super::{
    Layout,
    notifications::{FailingChannel, failing_channels},
    regions_page,
    view::{DagLine, RunLine, Unserved, WorkerLine},
};
use crate::{
    WebState,
    failure::Failure,
    format::count,
    live::{self, Html, Live, Region, Seen},
};

#[derive(Template)]
#[template(path = "home.html")]
struct HomeRegion {
    summary: String,
    calm: bool,
    file_errors: Vec<FileErrorRow>,
    failed: Vec<RunLine>,
    open: Vec<RunLine>,
    recent: Vec<RunLine>,
    next: Vec<DagLine>,
    workers: Vec<WorkerLine>,
    unserved: Vec<Unserved>,
    failing_channels: Vec<FailingChannel>,
    empty: bool,
}

/// `GET /`
pub(crate) async fn page(State(state): State<WebState>) -> Result<Response, Failure> {
    let live = Live::new("/events", regions(state).await?);
    regions_page(Layout::new("home", "Home"), live)
}

/// `GET /events`
pub(crate) async fn events(
    State(state): State<WebState>,
    Query(seen): Query<Seen>,
) -> Result<Response, Failure> {
    live::follow(&state.clone(), &seen, move || regions(state.clone()))
}

async fn regions(state: WebState) -> Result<Vec<Region>, Failure> {
    let home = state.store.home().await?;
    let failing_channels = failing_channels(&state).await?;
    let troubles = failing_channels.len() + home.file_errors.len() + home.failed_runs.len();
    let region = HomeRegion {
        summary: summary(
            home.file_errors.len(),
            home.failed_runs.len(),
            home.workers.len(),
            home.unserved.len(),
            failing_channels.len(),
        ),
        calm: troubles == 0 && !home.workers.is_empty() && home.unserved.is_empty(),
        failed: home.failed_runs.iter().map(RunLine::from).collect(),
        open: home.open_runs.iter().map(RunLine::from).collect(),
        empty: home.open_runs.is_empty() && home.recent_runs.is_empty(),
        recent: home.recent_runs.iter().map(RunLine::from).collect(),
        next: home
            .next_runs
            .iter()
            .map(|dag| DagLine::new(dag, None))
            .collect(),
        workers: home.workers.iter().map(WorkerLine::from).collect(),
        unserved: home.unserved.iter().map(Unserved::from).collect(),
        file_errors: home.file_errors,
        failing_channels,
    };
    Ok(vec![Region {
        name: "home",
        html: Html::of(&region)?,
    }])
}

fn summary(
    files: usize,
    failed: usize,
    workers: usize,
    unserved: usize,
    channels: usize,
) -> String {
    let mut needs = Vec::new();
    if files > 0 {
        needs.push(count(files, "DAG file has errors", "DAG files have errors"));
    }
    if failed > 0 {
        needs.push(count(
            failed,
            "run failed in the last 24 hours",
            "runs failed in the last 24 hours",
        ));
    }
    if workers == 0 {
        needs.push("no worker is running".to_owned());
    } else if unserved > 0 {
        needs.push(count(
            unserved,
            "queue has tasks and no worker",
            "queues have tasks and no worker",
        ));
    }
    if channels > 0 {
        needs.push(count(
            channels,
            "channel does not work",
            "channels do not work",
        ));
    }
    if needs.is_empty() {
        "Nothing needs you.".to_owned()
    } else {
        format!("{}.", needs.join(", "))
    }
}
