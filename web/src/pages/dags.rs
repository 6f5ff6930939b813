//! DAGs: every DAG with its schedule and its last and next run.

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use pinwheel_scheduler::store::{DagRow, FileErrorRow};
use serde::Deserialize;

use super::{Layout, render, view::DagLine};
use crate::{
    WebState,
    failure::Failure,
    format::count,
    live::{self, Html, Live, Region, Seen},
};

/// What the address may ask for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    #[serde(default)]
    q: String,
    done: Option<String>,
    #[serde(default)]
    seen: String,
}

#[derive(Template)]
#[template(path = "dags.html")]
struct DagsPage {
    layout: Layout,
    query: String,
    regions: Vec<Region>,
}

#[derive(Template)]
#[template(path = "dags_table.html")]
struct DagsTable {
    headline: String,
    query: String,
    file_errors: Vec<FileErrorRow>,
    dags: Vec<DagLine>,
    none_at_all: bool,
}

/// `GET /dags`
pub(crate) async fn page(
    State(state): State<WebState>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    let regions = regions(state, wanted.q.clone()).await?;
    let live = Live::new(
        &super::runs::address("/dags/events", &[("q", &wanted.q)]),
        regions,
    );
    let layout = Layout::new("dags", "DAGs")
        .live(&live)
        .done(wanted.done.as_deref());
    render(&DagsPage {
        layout,
        query: wanted.q,
        regions: live.regions,
    })
}

/// `GET /dags/events`
pub(crate) async fn events(
    State(state): State<WebState>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    let query = wanted.q;
    live::follow(
        &state.clone(),
        &Seen {
            seen: wanted.seen,
            ..Seen::default()
        },
        move || regions(state.clone(), query.clone()),
    )
}

async fn regions(state: WebState, query: String) -> Result<Vec<Region>, Failure> {
    let (all, file_errors) = (state.store.dags().await?, state.store.file_errors().await?);
    let mut dags = Vec::new();
    for dag in all.iter().filter(|dag| matches(dag, &query)) {
        dags.push(DagLine::new(dag, words(&state, dag).await?));
    }
    let headline = if dags.len() == all.len() {
        count(all.len(), "DAG", "DAGs")
    } else {
        format!("{} of {}", dags.len(), count(all.len(), "DAG", "DAGs"))
    };
    let table = DagsTable {
        headline,
        query,
        file_errors,
        dags,
        none_at_all: all.is_empty(),
    };
    Ok(vec![Region {
        name: "dags",
        html: Html::of(&table)?,
    }])
}

/// The schedule of a DAG in words. Definitions are cached by the store.
pub(crate) async fn words(state: &WebState, dag: &DagRow) -> Result<Option<String>, Failure> {
    if dag.schedule.is_none() {
        return Ok(None);
    }
    let definition = state.store.definition(dag.version_id).await?;
    Ok(definition.runs_when())
}

fn matches(dag: &DagRow, query: &str) -> bool {
    let hay = format!("{} {} {}", dag.dag_id, dag.description, dag.file).to_lowercase();
    query
        .to_lowercase()
        .split_whitespace()
        .all(|word| hay.contains(word))
}
