//! Runs: a list with filters, page by page.

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use pinwheel_scheduler::{
    model::{DagId, RunState},
    store::RunFilter,
};
use serde::Deserialize;

use super::{Layout, render, view::RunLine};
use crate::{
    WebState,
    failure::Failure,
    format::run_badge,
    live::{self, Html, Live, Region, Seen},
};

const PAGE: usize = 50;

pub(crate) const STATES: [RunState; 5] = [
    RunState::Queued,
    RunState::Running,
    RunState::Success,
    RunState::Failed,
    RunState::Cancelled,
];

/// What the address may ask for.
#[derive(Debug, Default, Clone, Deserialize)]
pub(crate) struct Wanted {
    #[serde(default)]
    dag: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    before: String,
    #[serde(default)]
    seen: String,
}

#[derive(Template)]
#[template(path = "runs.html")]
struct RunsPage {
    layout: Layout,
    dag: String,
    filters: Vec<Choice>,
    regions: Vec<Region>,
}

/// A filter that is a link.
struct Choice {
    word: &'static str,
    address: String,
    chosen: bool,
}

#[derive(Template)]
#[template(path = "runs_table.html")]
struct RunsTable {
    runs: Vec<RunLine>,
    filtered: bool,
    /// The address of the next page; empty on the last.
    older: String,
}

/// `GET /runs`
pub(crate) async fn page(
    State(state): State<WebState>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    let here = [
        ("dag", wanted.dag.as_str()),
        ("state", &wanted.state),
        ("before", &wanted.before),
    ];
    let live = Live::new(
        &address("/runs/events", &here),
        regions(state, wanted.clone()).await?,
    );
    let filters = [("all", "")]
        .into_iter()
        .chain(STATES.map(|state| (run_badge(state).word, run_badge(state).word)))
        .map(|(word, state)| Choice {
            word,
            address: address("/runs", &[("dag", &wanted.dag), ("state", state)]),
            chosen: state == wanted.state,
        })
        .collect();
    let layout = Layout::new("runs", "Runs").live(&live);
    render(&RunsPage {
        layout,
        dag: wanted.dag,
        filters,
        regions: live.regions,
    })
}

/// `GET /runs/events`
pub(crate) async fn events(
    State(state): State<WebState>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    let seen = Seen {
        seen: wanted.seen.clone(),
        ..Seen::default()
    };
    live::follow(&state.clone(), &seen, move || {
        regions(state.clone(), wanted.clone())
    })
}

async fn regions(state: WebState, wanted: Wanted) -> Result<Vec<Region>, Failure> {
    let chosen = STATES
        .into_iter()
        .find(|state| run_badge(*state).word == wanted.state);
    let dag_id = if wanted.dag.is_empty() {
        None
    } else {
        Some(DagId::new(&wanted.dag))
    };
    let mut runs = match dag_id {
        // A text that cannot be a DAG's id matches no run.
        Some(None) => Vec::new(),
        dag_id => {
            let filter = RunFilter {
                dag_id: dag_id.flatten(),
                states: chosen.into_iter().collect(),
                before: wanted.before.parse().ok(),
                limit: PAGE as i64 + 1,
            };
            state.store.runs(&filter).await?
        }
    };
    let more = runs.len() > PAGE;
    runs.truncate(PAGE);
    let older = match runs.last().filter(|_| more) {
        Some(last) => {
            let before = last.run_id.to_string();
            address(
                "/runs",
                &[
                    ("dag", &wanted.dag),
                    ("state", &wanted.state),
                    ("before", &before),
                ],
            )
        }
        None => String::new(),
    };
    let filtered = !wanted.dag.is_empty() || chosen.is_some() || !wanted.before.is_empty();
    let table = RunsTable {
        runs: runs.iter().map(RunLine::from).collect(),
        filtered,
        older,
    };
    Ok(vec![Region {
        name: "runs",
        html: Html::of(&table)?,
    }])
}

/// An address with those parts of the query that say something, percent-encoded.
pub(crate) fn address(path: &str, query: &[(&str, &str)]) -> String {
    let mut address = path.to_owned();
    for (index, (name, value)) in query
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .enumerate()
    {
        address.push(if index == 0 { '?' } else { '&' });
        address.push_str(name);
        address.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    address.push(char::from(byte))
                }
                other => address.push_str(&format!("%{other:02X}")),
            }
        }
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_encode_what_users_type() {
        assert_eq!(
            address("/dags", &[("q", "a b&c=<é"), ("x", "")]),
            "/dags?q=a%20b%26c%3D%3C%C3%A9"
        );
    }
}
