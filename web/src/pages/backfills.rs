//! Backfills of a DAG: how far each is, the buttons that steer it, its dates, and the form that makes one.

use askama::Template;
use axum::{
    extract::{Form, Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use pinwheel_scheduler::{
    model::{
        BackfillId, Dag, Params,
        backfill::{BackfillState, DateAction, DateState, Direction, OnFailure, Reprocess},
    },
    store::{
        BackfillDateRow, BackfillFilter, BackfillRow, NewBackfill, OpenRuns, PlannedDate, Progress,
        Steer,
    },
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Layout,
    actions::{ACTOR, read_date, ring},
    dag_id, render_with,
};
use crate::{
    WebState,
    failure::{Failure, Problem},
    format::{Badge, When, run_badge},
    live::{self, Html, Live, Region, Seen},
};

/// Backfills on the page of all, and on the page of the DAG.
const LISTED: i64 = 50;
const LATEST: i64 = 3;
/// Dates that are shown of one backfill, and of a plan.
const DATES: i64 = 500;

/// What the address may ask for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    /// The backfill whose dates are shown.
    backfill: Option<i64>,
    done: Option<String>,
}

/// What keeps the page fresh.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Follow {
    backfill: Option<i64>,
    #[serde(default)]
    seen: String,
}

/// What a person typed into the form.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Typed {
    from: String,
    to: String,
    reprocess: String,
    max_active_runs: String,
    backwards: String,
    stop_on_failure: String,
    params: String,
    /// `plan` asks what would be done.
    what: String,
}

#[derive(Template)]
#[template(path = "backfills.html")]
struct BackfillsPage {
    layout: Layout,
    dag: String,
    regions: Vec<Region>,
    typed: Typed,
    problem: Option<Problem>,
    plan: Option<PlanTable>,
    /// There is a schedule, so there are logical dates.
    has_dates: bool,
    reprocesses: Vec<&'static str>,
    default_runs: u32,
}

/// What a backfill would do.
struct PlanTable {
    summary: String,
    dates: Vec<PlanLine>,
    more: usize,
}

struct PlanLine {
    logical: When,
    run: Option<(i64, Badge)>,
    action: &'static str,
}

/// A list of backfills, with the dates of one.
#[derive(Template)]
#[template(path = "backfills_table.html")]
struct BackfillsTable {
    headline: &'static str,
    is_hidden: bool,
    dag: String,
    backfills: Vec<BackfillLine>,
    /// They are on the page of the DAG, which leads to the page of all.
    leads_on: bool,
    /// The backfill whose dates are shown.
    shown: i64,
    dates: Vec<DateLine>,
    more: i64,
}

struct BackfillLine {
    backfill: i64,
    dag: String,
    badge: Badge,
    remark: &'static str,
    from: When,
    to: When,
    how: String,
    done: i64,
    total: i64,
    words: String,
    by: String,
    can_pause: bool,
    can_resume: bool,
    can_cancel: bool,
}

struct DateLine {
    logical: When,
    run: Option<i64>,
    badge: Option<Badge>,
    what: &'static str,
}

/// Reads a backfill's number out of an address.
pub(crate) fn backfill_id(text: &str) -> Result<BackfillId, Failure> {
    text.parse().map_err(|_| Failure::missing("backfill", text))
}

/// The badge of a backfill's state.
fn badge(state: BackfillState) -> Badge {
    match state {
        BackfillState::Running => Badge::new("running", "running"),
        BackfillState::Paused => Badge::new("paused", "paused"),
        BackfillState::Stopped => Badge::new("failed", "stopped at a failure"),
        BackfillState::Success => Badge::new("success", "success"),
        BackfillState::Failed => Badge::new("failed", "failed"),
        BackfillState::Cancelled => Badge::new("cancelled", "cancelled"),
    }
}

impl From<&BackfillRow> for BackfillLine {
    fn from(row: &BackfillRow) -> Self {
        let mut how = vec![format!("reprocess {}", row.reprocess.name())];
        how.push(format!("{} at once", row.max_active_runs));
        match row.direction {
            Direction::Forwards => {}
            Direction::Backwards => how.push("backwards".to_owned()),
        }
        match row.on_failure {
            OnFailure::Continue => {}
            OnFailure::Stop => how.push("stops at a failure".to_owned()),
        }
        let progress = &row.progress;
        let is_open = !row.state.is_final();
        Self {
            backfill: row.backfill_id.0,
            dag: row.dag_id.to_string(),
            badge: badge(row.state),
            remark: if is_open && row.dag_is_paused {
                "its DAG is paused"
            } else {
                ""
            },
            from: When::exact(Some(row.from)),
            to: When::exact(Some(row.to)),
            how: how.join(" · "),
            done: progress.total - progress.waiting - progress.running,
            total: progress.total,
            words: words(progress),
            by: row.created_by.clone(),
            can_pause: row.state == BackfillState::Running,
            can_resume: matches!(row.state, BackfillState::Paused | BackfillState::Stopped),
            can_cancel: is_open,
        }
    }
}

/// What is not zero.
fn words(progress: &Progress) -> String {
    let counts = [
        (progress.success, "success"),
        (progress.failed, "failed"),
        (progress.cancelled, "cancelled"),
        (progress.running, "running"),
        (progress.waiting, "waiting"),
        (progress.left_alone, "left alone"),
        (progress.removed, "removed"),
    ];
    let words: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    words.join(" · ")
}

impl From<&BackfillDateRow> for DateLine {
    fn from(row: &BackfillDateRow) -> Self {
        Self {
            logical: When::exact(Some(row.logical_date)),
            run: row
                .run_id
                .map(|run| run.0)
                .filter(|_| row.run_state.is_some()),
            badge: row.run_state.map(run_badge),
            what: match row.state {
                DateState::Waiting => "its turn has not come",
                DateState::Made => "the run was made",
                DateState::Cleared => "the run was cleared",
                DateState::Left => "left alone",
                DateState::Cancelled => "cancelled before its turn",
            },
        }
    }
}

impl PlanTable {
    fn new(planned: &[PlannedDate]) -> Self {
        let count = |action| planned.iter().filter(|date| date.action == action).count();
        let most = usize::try_from(DATES).unwrap_or(usize::MAX);
        Self {
            summary: format!(
                "{} dates: {} runs to make, {} to clear, {} left alone",
                planned.len(),
                count(DateAction::Make),
                count(DateAction::Clear),
                count(DateAction::Leave)
            ),
            dates: planned
                .iter()
                .take(most)
                .map(|date| PlanLine {
                    logical: When::exact(Some(date.logical_date)),
                    run: date
                        .run_id
                        .zip(date.run_state)
                        .map(|(run, state)| (run.0, run_badge(state))),
                    action: match date.action {
                        DateAction::Make => "make a run",
                        DateAction::Clear => "clear it",
                        DateAction::Leave => "leave it alone",
                    },
                })
                .collect(),
            more: planned.len().saturating_sub(most),
        }
    }
}

/// `GET /dags/{dag}/backfills`
pub(crate) async fn page(
    State(state): State<WebState>,
    Path(dag): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    let done = wanted.done.as_deref();
    show(&state, &dag, wanted.backfill, Shown::default(), done).await
}

/// `GET /dags/{dag}/backfills/events`
pub(crate) async fn events(
    State(state): State<WebState>,
    Path(dag): Path<String>,
    Query(follow): Query<Follow>,
) -> Result<Response, Failure> {
    find(&state, &dag).await?;
    let seen = Seen {
        seen: follow.seen,
        ..Seen::default()
    };
    live::follow(&state.clone(), &seen, move || {
        regions(state.clone(), dag.clone(), follow.backfill)
    })
}

/// What the page shows beside the list.
#[derive(Default)]
struct Shown {
    typed: Typed,
    problem: Option<Problem>,
    plan: Option<PlanTable>,
}

async fn show(
    state: &WebState,
    dag: &str,
    backfill: Option<i64>,
    shown: Shown,
    done: Option<&str>,
) -> Result<Response, Failure> {
    let row = find(state, dag).await?;
    let definition = state.store.definition(row.version_id).await?;
    let address = match backfill {
        Some(backfill) => format!("/dags/{dag}/backfills/events?backfill={backfill}"),
        None => format!("/dags/{dag}/backfills/events"),
    };
    let live = Live::new(
        &address,
        regions(state.clone(), dag.to_owned(), backfill).await?,
    );
    let status = shown.problem.as_ref().map_or(StatusCode::OK, |problem| {
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY)
    });
    let page = BackfillsPage {
        layout: Layout::new("dags", format!("Backfills of {dag}"))
            .live(&live)
            .done(done),
        dag: dag.to_owned(),
        regions: live.regions,
        typed: shown.typed,
        problem: shown.problem,
        plan: shown.plan,
        has_dates: definition.schedule.is_some() && row.present,
        reprocesses: Reprocess::ALL.map(Reprocess::name).to_vec(),
        default_runs: definition.max_active_runs,
    };
    render_with(status, &page)
}

async fn find(state: &WebState, dag: &str) -> Result<pinwheel_scheduler::store::DagRow, Failure> {
    state
        .store
        .dag(&dag_id(dag)?)
        .await?
        .ok_or_else(|| Failure::missing("DAG", dag))
}

async fn regions(
    state: WebState,
    dag: String,
    backfill: Option<i64>,
) -> Result<Vec<Region>, Failure> {
    let (dates, more) = match backfill {
        None => (Vec::new(), 0),
        Some(backfill) => {
            let row = state.store.backfill(BackfillId(backfill)).await?;
            let dates = state
                .store
                .backfill_dates(row.backfill_id, 0, DATES)
                .await?;
            let more = row.progress.total - dates.len() as i64;
            (dates, more)
        }
    };
    let table = BackfillsTable {
        headline: "Backfills",
        is_hidden: false,
        backfills: list(&state, &dag, LISTED).await?,
        dag,
        leads_on: false,
        shown: backfill.unwrap_or(0),
        dates: dates.iter().map(DateLine::from).collect(),
        more,
    };
    Ok(vec![Region {
        name: "backfills",
        html: Html::of(&table)?,
    }])
}

async fn list(state: &WebState, dag: &str, limit: i64) -> Result<Vec<BackfillLine>, Failure> {
    let filter = BackfillFilter {
        dag_id: Some(dag_id(dag)?),
        before: None,
        limit,
    };
    let backfills = state.store.backfills(&filter).await?;
    Ok(backfills.iter().map(BackfillLine::from).collect())
}

/// The newest backfills as the page of the DAG shows them: nothing for a DAG that has neither a schedule nor any.
pub(super) async fn of_dag(
    state: &WebState,
    dag: &str,
    definition: &Dag,
) -> Result<Region, Failure> {
    let backfills = list(state, dag, LATEST).await?;
    let table = BackfillsTable {
        headline: "Newest backfills",
        dag: dag.to_owned(),
        is_hidden: backfills.is_empty() && definition.schedule.is_none(),
        backfills,
        leads_on: true,
        shown: 0,
        dates: Vec::new(),
        more: 0,
    };
    Ok(Region {
        name: "backfills",
        html: Html::of(&table)?,
    })
}

/// `POST /dags/{dag}/backfills`
pub(crate) async fn create(
    State(state): State<WebState>,
    Path(dag): Path<String>,
    Form(typed): Form<Typed>,
) -> Result<Response, Failure> {
    let answer = match read(&dag, &typed) {
        Ok(new) if typed.what == "plan" => state
            .store
            .plan_backfill(&new)
            .await
            .map(|planned| Answer::Planned(PlanTable::new(&planned)))
            .map_err(Failure::from),
        Ok(new) => state
            .store
            .create_backfill(&new)
            .await
            .map(Answer::Made)
            .map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    match answer {
        Ok(Answer::Made(id)) => {
            ring(&state.store).await;
            let address = format!("/dags/{dag}/backfills?backfill={id}&done=backfill_made");
            Ok(Redirect::to(&address).into_response())
        }
        Ok(Answer::Planned(plan)) => {
            let shown = Shown {
                typed,
                plan: Some(plan),
                problem: None,
            };
            show(&state, &dag, None, shown, None).await
        }
        Err(failure)
            if matches!(
                failure.status(),
                StatusCode::UNPROCESSABLE_ENTITY | StatusCode::CONFLICT
            ) =>
        {
            let shown = Shown {
                typed,
                problem: Some(failure.problem().clone()),
                plan: None,
            };
            show(&state, &dag, None, shown, None).await
        }
        Err(failure) => Err(failure),
    }
}

enum Answer {
    Made(BackfillId),
    Planned(PlanTable),
}

fn read(dag: &str, typed: &Typed) -> Result<NewBackfill, Failure> {
    let misfit = |detail: String| {
        Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "The form does not fit").detail(detail)
    };
    let instant = |label: &str, text: &str| match read_date(text) {
        Ok(Some(instant)) => Ok(instant),
        Ok(None) => Err(misfit(format!("{label} is missing"))),
        Err(detail) => Err(misfit(format!("{label}: {detail}"))),
    };
    let reprocess = Reprocess::ALL
        .into_iter()
        .find(|known| known.name() == typed.reprocess)
        .unwrap_or_default();
    let max_active_runs = match typed.max_active_runs.trim() {
        "" => None,
        text => match text.parse() {
            Ok(number @ 1..) => Some(number),
            _ => {
                return Err(misfit(format!(
                    "runs at once: expected a number from 1, found `{text}`"
                )));
            }
        },
    };
    let params = match typed.params.trim() {
        "" => Params::new(),
        text => match serde_json::from_str(text) {
            Ok(Value::Object(params)) => params,
            Ok(_) => return Err(misfit("params: expected a JSON object".to_owned())),
            Err(error) => return Err(misfit(format!("params: is no JSON: {error}"))),
        },
    };
    Ok(NewBackfill {
        dag_id: dag_id(dag)?,
        from: instant("the first logical date", &typed.from)?,
        to: instant("the last logical date", &typed.to)?,
        reprocess,
        direction: if typed.backwards.is_empty() {
            Direction::Forwards
        } else {
            Direction::Backwards
        },
        on_failure: if typed.stop_on_failure.is_empty() {
            OnFailure::Continue
        } else {
            OnFailure::Stop
        },
        max_active_runs,
        params,
        actor: ACTOR.to_owned(),
    })
}

/// `POST /backfills/{backfill}/pause`
pub(crate) async fn pause(
    State(state): State<WebState>,
    Path(backfill): Path<String>,
) -> Result<Redirect, Failure> {
    steer(&state, &backfill, Steer::Pause, "backfill_paused").await
}

/// `POST /backfills/{backfill}/resume`
pub(crate) async fn resume(
    State(state): State<WebState>,
    Path(backfill): Path<String>,
) -> Result<Redirect, Failure> {
    steer(&state, &backfill, Steer::Resume, "backfill_resumed").await
}

async fn steer(
    state: &WebState,
    backfill: &str,
    steer: Steer,
    done: &'static str,
) -> Result<Redirect, Failure> {
    let id = backfill_id(backfill)?;
    state.store.steer_backfill(id, steer, ACTOR).await?;
    ring(&state.store).await;
    back(state, id, done).await
}

/// The form behind the buttons that cancel a backfill.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cancel {
    /// Not empty: its runs as well that have begun.
    running: String,
}

/// `POST /backfills/{backfill}/cancel`
pub(crate) async fn cancel(
    State(state): State<WebState>,
    Path(backfill): Path<String>,
    Form(form): Form<Cancel>,
) -> Result<Redirect, Failure> {
    let id = backfill_id(&backfill)?;
    let open_runs = if form.running.is_empty() {
        OpenRuns::Keep
    } else {
        OpenRuns::Cancel
    };
    state.store.cancel_backfill(id, open_runs, ACTOR).await?;
    ring(&state.store).await;
    back(&state, id, "backfill_cancelled").await
}

async fn back(state: &WebState, id: BackfillId, done: &str) -> Result<Redirect, Failure> {
    let dag = state.store.backfill(id).await?.dag_id;
    Ok(Redirect::to(&format!(
        "/dags/{dag}/backfills?backfill={id}&done={done}"
    )))
}
