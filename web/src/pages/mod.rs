//! The pages. Each module reads from the store, makes plain views, and lets a template write them.

pub(crate) mod actions;
pub(crate) mod backfills;
pub(crate) mod clear;
pub(crate) mod connections;
pub(crate) mod dag;
pub(crate) mod dags;
pub(crate) mod datasets;
pub(crate) mod home;
pub(crate) mod notifications;
pub(crate) mod pools;
pub(crate) mod reference;
pub(crate) mod reports;
pub(crate) mod run;
pub(crate) mod runs;
#[cfg(test)]
mod samples;
pub(crate) mod streams;
pub(crate) mod task;
pub(crate) mod variables;
mod view;
pub(crate) mod workers;

use askama::Template;
use axum::{
    http::StatusCode,
    response::{Html, IntoResponse, Response},
};
use pinwheel_scheduler::{
    model::{DagId, RunId, TaskId},
    store::RunRow,
};

use crate::{
    WebState,
    assets::Assets,
    failure::Failure,
    live::{Live, Region},
};

/// What the frame around every page needs.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) title: String,
    /// Which entry of the navigation is lit.
    pub(crate) section: &'static str,
    pub(crate) assets: Assets,
    /// The event stream that keeps the page fresh; empty for none.
    pub(crate) live: String,
    pub(crate) note: Option<Note>,
}

/// What the last action did, shown once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Note {
    pub(crate) text: &'static str,
}

impl Layout {
    pub(crate) fn new(section: &'static str, title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            section,
            assets: Assets::new(),
            live: String::new(),
            note: None,
        }
    }

    /// A page that is no part of the navigation.
    pub(crate) fn plain(title: &str) -> Self {
        Self::new("", title)
    }

    pub(crate) fn live(mut self, live: &Live) -> Self {
        self.live.clone_from(&live.address);
        self
    }

    /// `done` is the code that an action put into the address; unknown codes say nothing.
    pub(crate) fn done(mut self, done: Option<&str>) -> Self {
        self.note = done.and_then(actions::note);
        self
    }
}

/// A page made of live regions and nothing else.
#[derive(Template)]
#[template(path = "regions.html")]
struct RegionsPage {
    layout: Layout,
    regions: Vec<Region>,
}

fn regions_page(layout: Layout, live: Live) -> Result<Response, Failure> {
    render(&RegionsPage {
        layout: layout.live(&live),
        regions: live.regions,
    })
}

fn render(page: &impl Template) -> Result<Response, Failure> {
    render_with(StatusCode::OK, page)
}

fn render_with(status: StatusCode, page: &impl Template) -> Result<Response, Failure> {
    Ok((status, Html(page.render()?)).into_response())
}

/// Reads an id out of an address; what cannot be one names nothing that exists.
pub(crate) fn dag_id(text: &str) -> Result<DagId, Failure> {
    DagId::new(text).ok_or_else(|| Failure::missing("DAG", text))
}

pub(crate) fn run_id(text: &str) -> Result<RunId, Failure> {
    text.parse().map_err(|_| Failure::missing("run", text))
}

pub(crate) fn task_id(text: &str) -> Result<TaskId, Failure> {
    TaskId::new(text).ok_or_else(|| Failure::missing("task", text))
}

pub(crate) async fn find_run(state: &WebState, id: RunId) -> Result<RunRow, Failure> {
    state
        .store
        .run(id)
        .await?
        .ok_or_else(|| Failure::missing("run", id))
}
