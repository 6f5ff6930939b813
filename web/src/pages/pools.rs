//! Pools: how many slots each has, what is in use, and the form that sets them.

use askama::Template;
use axum::{
    extract::{Form, Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use pinwheel_scheduler::{
    model::PoolName,
    store::{PoolChange, PoolDescription, PoolRow, PoolSize},
};
use serde::Deserialize;

use super::{
    Layout,
    actions::{ACTOR, ring},
    render_with,
};
use crate::{
    WebState,
    failure::{Failure, Problem},
    format::count,
    live::{self, Html, Live, Region, Seen},
};

/// DAGs that the list names for one pool.
const DAGS_NAMED: usize = 5;

/// What the address may ask for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    /// The pool that the form is about.
    #[serde(default)]
    pool: String,
    done: Option<String>,
}

/// What a person typed into the form.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Typed {
    pool: String,
    /// Empty is no limit.
    slots: String,
    description: String,
    #[serde(skip)]
    problem: Option<Problem>,
}

#[derive(Template)]
#[template(path = "pools.html")]
struct PoolsPage {
    layout: Layout,
    regions: Vec<Region>,
    typed: Typed,
    /// The form is about a pool that is there.
    known: bool,
    deletable: bool,
    longest: usize,
}

#[derive(Template)]
#[template(path = "pools_table.html")]
struct PoolsTable {
    headline: String,
    pools: Vec<PoolLine>,
}

/// A pool in the list.
struct PoolLine {
    pool: String,
    description: String,
    /// `None` is no limit.
    slots: Option<i32>,
    used: i64,
    use_words: String,
    remark: &'static str,
    running: i64,
    ready: i64,
    tasks: i64,
    dags: Vec<String>,
    more_dags: usize,
}

impl From<&PoolRow> for PoolLine {
    fn from(row: &PoolRow) -> Self {
        let noun = |slots: i64| if slots == 1 { "slot" } else { "slots" };
        let (use_words, remark) = match row.slots.map(i64::from) {
            None => (format!("{} {}, no limit", row.used, noun(row.used)), ""),
            Some(slots) => (
                format!("{} of {slots} {}", row.used, noun(slots)),
                match row.used.cmp(&slots) {
                    std::cmp::Ordering::Less => "",
                    std::cmp::Ordering::Equal => "full",
                    std::cmp::Ordering::Greater => "made smaller: takes none until there is room",
                },
            ),
        };
        let mut dags: Vec<String> = row.dags.iter().map(ToString::to_string).collect();
        let more_dags = dags.len().saturating_sub(DAGS_NAMED);
        dags.truncate(DAGS_NAMED);
        Self {
            pool: row.pool.to_string(),
            description: row.description.clone(),
            slots: row.slots,
            used: row.used,
            use_words,
            remark,
            running: row.running,
            ready: row.ready,
            tasks: row.tasks,
            dags,
            more_dags,
        }
    }
}

/// `GET /pools`
pub(crate) async fn page(
    State(state): State<WebState>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    let mut typed = Typed {
        pool: wanted.pool,
        ..Typed::default()
    };
    if let Some(name) = PoolName::new(typed.pool.as_str()) {
        let pools = state.store.pools().await?;
        if let Some(row) = pools.iter().find(|row| row.pool == name) {
            typed.slots = row.slots.map(|slots| slots.to_string()).unwrap_or_default();
            typed.description.clone_from(&row.description);
        }
    }
    show(&state, typed, wanted.done.as_deref()).await
}

/// `GET /pools/events`
pub(crate) async fn events(
    State(state): State<WebState>,
    Query(seen): Query<Seen>,
) -> Result<Response, Failure> {
    live::follow(&state.clone(), &seen, move || regions(state.clone()))
}

/// `POST /pools`
pub(crate) async fn set(
    State(state): State<WebState>,
    Form(mut typed): Form<Typed>,
) -> Result<Response, Failure> {
    let refusal = match read(&typed) {
        Ok((pool, change)) => {
            state.store.set_pool(&pool, &change, ACTOR).await?;
            ring(&state.store).await;
            return Ok(Redirect::to("/pools?done=pool_set").into_response());
        }
        Err(refusal) => refusal,
    };
    typed.problem = Some(refusal.problem().clone());
    show(&state, typed, None).await
}

/// `POST /pools/{pool}/delete`
pub(crate) async fn delete(
    State(state): State<WebState>,
    Path(pool): Path<String>,
) -> Result<Redirect, Failure> {
    state.store.delete_pool(&pool_name(&pool)?, ACTOR).await?;
    ring(&state.store).await;
    Ok(Redirect::to("/pools?done=pool_deleted"))
}

/// Reads a pool's name out of an address; what cannot be one names nothing that exists.
pub(crate) fn pool_name(text: &str) -> Result<PoolName, Failure> {
    PoolName::new(text).ok_or_else(|| Failure::missing("pool", text))
}

/// Refuses a name for a new pool, size or description that does not fit.
pub(crate) fn misfit(detail: impl Into<String>) -> Failure {
    Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "The pool does not fit").detail(detail)
}

pub(crate) fn new_pool_name(text: &str) -> Result<PoolName, Failure> {
    PoolName::new(text).ok_or_else(|| {
        misfit(format!(
            "`{text}` is no name for a pool: it takes 1 to 128 letters, digits, `_`, `.` and `-`, and begins with none of the last two"
        ))
    })
}

pub(crate) fn limit(slots: i64) -> Result<PoolSize, Failure> {
    PoolSize::limit(slots).ok_or_else(|| {
        misfit(format!(
            "a pool has 1 to {} slots, or no limit; found {slots}",
            i32::MAX
        ))
    })
}

pub(crate) fn description(text: &str) -> Result<PoolDescription, Failure> {
    PoolDescription::new(text).ok_or_else(|| {
        misfit(format!(
            "a description has one line of at most {} characters",
            PoolDescription::LONGEST
        ))
    })
}

fn read(typed: &Typed) -> Result<(PoolName, PoolChange), Failure> {
    let pool = new_pool_name(typed.pool.trim())?;
    let size = match typed.slots.trim() {
        "" => PoolSize::Unlimited,
        text => limit(text.parse().map_err(|_| {
            misfit(format!(
                "expected a whole number of slots, or nothing for no limit; found `{text}`"
            ))
        })?)?,
    };
    let change = PoolChange {
        size,
        description: Some(description(&typed.description)?),
    };
    Ok((pool, change))
}

/// The page, with what a person typed when the form was refused.
async fn show(state: &WebState, typed: Typed, done: Option<&str>) -> Result<Response, Failure> {
    let rows = state.store.pools().await?;
    let live = Live::new("/pools/events", vec![region(&rows)?]);
    let chosen = rows.iter().find(|row| row.pool.as_str() == typed.pool);
    let status = typed.problem.as_ref().map_or(StatusCode::OK, |problem| {
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY)
    });
    let page = PoolsPage {
        layout: Layout::new("pools", "Pools").live(&live).done(done),
        regions: live.regions,
        known: chosen.is_some(),
        deletable: chosen.is_some_and(|row| row.tasks == 0 && row.pool.as_str() != "default"),
        typed,
        longest: PoolDescription::LONGEST,
    };
    render_with(status, &page)
}

async fn regions(state: WebState) -> Result<Vec<Region>, Failure> {
    Ok(vec![region(&state.store.pools().await?)?])
}

fn region(rows: &[PoolRow]) -> Result<Region, Failure> {
    let table = PoolsTable {
        headline: count(rows.len(), "pool", "pools"),
        pools: rows.iter().map(PoolLine::from).collect(),
    };
    Ok(Region {
        name: "pools",
        html: Html::of(&table)?,
    })
}
