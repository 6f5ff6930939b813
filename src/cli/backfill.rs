//! `pinwheel backfill`: a range of logical dates of a DAG, run on purpose.

use std::{fmt::Write, time::Duration};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use clap::{Args, Subcommand, ValueEnum};
use pinwheel_scheduler::{
    engine::Changes,
    model::{
        BackfillId, DagId, Schedule,
        backfill::{BackfillState, DateAction, DateState, Direction, OnFailure, Reprocess},
    },
    store::{
        BackfillDateRow, BackfillFilter, BackfillRow, NewBackfill, OpenRuns, PlannedDate, Progress,
        Steer, Store,
    },
};
use serde_json::json;

use super::{client, dags, output};
use crate::{
    failure::{Failure, Result},
    settings::Settings,
};

/// So many dates people are shown; `--json` has all.
const SHOWN: usize = 50;

/// `pinwheel backfill …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run every logical date of a range, by the DAG's schedule
    #[command(after_help = "\
Examples:
  pinwheel backfill create pinterest_daily --from 2026-01-01 --to 2026-01-31 --dry-run
  pinwheel backfill create pinterest_daily --from 2026-01-01 --to 2026-01-31 --max-active-runs 4
  pinwheel backfill create pinterest_daily --from 2026-01-01 --to 2026-01-31 --reprocess failed --backwards

A date has one run: where there is one, it is left alone or runs again, as --reprocess says. Dates whose data interval is
not over are left out. Exits with 2 when nothing is to do, with 1 when it waited and a run did not succeed.")]
    Create(Create),
    /// List the newest backfills
    List(List),
    /// Show one backfill: its progress and its dates
    Show(Show),
    /// Begin no more runs of a backfill; what runs goes on
    Pause(One),
    /// Let a backfill go on that was paused, or has stopped at a failure
    Resume(One),
    /// End a backfill; dates whose turn has not come are not touched
    Cancel(Cancel),
}

/// Arguments of `backfill create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The DAG
    #[arg(value_parser = client::dag_id, value_name = "DAG")]
    dag: DagId,
    /// The first logical date: a day in the schedule's time zone, or an instant as RFC 3339
    #[arg(long, value_parser = end, value_name = "DATE")]
    from: End,
    /// The last logical date, inclusive: a day means all of it
    #[arg(long, value_parser = end, value_name = "DATE")]
    to: End,
    /// What becomes of dates that have a run
    #[arg(long, value_enum, default_value_t = Again::None)]
    reprocess: Again,
    /// How many of its runs may be running at once [default: as many as the DAG allows its own]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "NUMBER")]
    max_active_runs: Option<u32>,
    /// Begin with the newest date
    #[arg(long)]
    backwards: bool,
    /// Begin nothing more once a run has failed, until it is resumed
    #[arg(long)]
    stop_on_failure: bool,
    /// A param of every run; may be given several times
    #[arg(long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// Only list the dates, the state of their runs and what would be done
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Wait until it is over, or has stopped at a failure
    #[arg(long)]
    wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What becomes of dates that have a run, as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Again {
    /// They are left alone
    None,
    /// They run again if their run failed or was cancelled
    Failed,
    /// They run again
    All,
}

impl From<Again> for Reprocess {
    fn from(again: Again) -> Self {
        match again {
            Again::None => Self::None,
            Again::Failed => Self::Failed,
            Again::All => Self::All,
        }
    }
}

/// Arguments of `backfill list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only of this DAG
    #[arg(value_parser = client::dag_id, value_name = "DAG")]
    dag: Option<DagId>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=500))]
    limit: i64,
    /// Only backfills before this one
    #[arg(long, value_name = "BACKFILL")]
    before: Option<BackfillId>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `backfill show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The backfill's number
    backfill: BackfillId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `backfill pause` and `backfill resume`.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The backfill's number
    backfill: BackfillId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `backfill cancel`.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The backfill's number
    backfill: BackfillId,
    /// Cancel its runs as well that have begun
    #[arg(long)]
    running: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// An end of a range as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Instant(DateTime<Utc>),
    /// All of a day, in the zone of the schedule.
    Day(NaiveDate),
}

fn end(text: &str) -> std::result::Result<End, String> {
    if let Ok(day) = text.parse() {
        return Ok(End::Day(day));
    }
    DateTime::parse_from_rfc3339(text)
        .map(|instant| End::Instant(instant.to_utc()))
        .map_err(|_| {
            "expected a day such as `2026-01-31`, or an instant such as `2026-01-31T02:00:00Z`"
                .to_owned()
        })
}

impl End {
    fn first(self, zone: Tz) -> DateTime<Utc> {
        match self {
            Self::Instant(instant) => instant,
            Self::Day(day) => begin(day, zone),
        }
    }

    fn last(self, zone: Tz) -> DateTime<Utc> {
        match self {
            Self::Instant(instant) => instant,
            Self::Day(day) => begin(day + Days::new(1), zone) - TimeDelta::microseconds(1),
        }
    }
}

/// The first instant of a day. Where the clock skips midnight, the day begins later.
fn begin(day: NaiveDate, zone: Tz) -> DateTime<Utc> {
    let midnight = day.and_time(NaiveTime::MIN);
    (0..=24)
        .find_map(|hours| {
            zone.from_local_datetime(&(midnight + TimeDelta::hours(hours)))
                .earliest()
        })
        .map_or_else(|| midnight.and_utc(), |instant| instant.to_utc())
}

impl Command {
    pub(crate) async fn run(self, settings: &Settings) -> Result<()> {
        match self {
            Self::Create(arguments) => create(settings, arguments).await,
            Self::List(arguments) => list(settings, arguments).await,
            Self::Show(arguments) => show(settings, &arguments).await,
            Self::Pause(arguments) => steer(settings, &arguments, Steer::Pause).await,
            Self::Resume(arguments) => steer(settings, &arguments, Steer::Resume).await,
            Self::Cancel(arguments) => cancel(settings, &arguments).await,
        }
    }
}

async fn create(settings: &Settings, arguments: Create) -> Result<()> {
    let store = client::connect(settings).await?;
    let dag = dags::known(&store, &arguments.dag).await?;
    let definition = store.definition(dag.version_id).await?;
    // A DAG without a schedule is refused by the store.
    let zone = definition.schedule.as_ref().map_or(Tz::UTC, Schedule::zone);
    let new = NewBackfill {
        params: dags::read_params(&definition, &arguments.params)?,
        dag_id: arguments.dag,
        from: arguments.from.first(zone),
        to: arguments.to.last(zone),
        reprocess: arguments.reprocess.into(),
        direction: if arguments.backwards {
            Direction::Backwards
        } else {
            Direction::Forwards
        },
        on_failure: if arguments.stop_on_failure {
            OnFailure::Stop
        } else {
            OnFailure::Continue
        },
        max_active_runs: arguments.max_active_runs,
        actor: client::actor(),
    };
    if arguments.dry_run {
        let planned = store.plan_backfill(&new).await?;
        if arguments.json {
            return output::json(&json!({ "dag_id": new.dag_id, "dates": planned }));
        }
        return output::text(&plan(&planned));
    }
    // Armed before the backfill exists, so that no change is missed.
    let mut changes = Changes::listen(&store).await?;
    let backfill_id = store.create_backfill(&new).await?;
    client::ring(&store).await;
    if arguments.wait {
        wait_until_over(&store, backfill_id, &mut changes).await?;
        say(&store, backfill_id, arguments.json).await?;
        return verdict(&store.backfill(backfill_id).await?);
    }
    let backfill = store.backfill(backfill_id).await?;
    if arguments.json {
        return output::json(&backfill);
    }
    let mut text = format!(
        "backfill {backfill_id} of {} is made: {} dates, {} of them are left alone",
        backfill.dag_id, backfill.progress.total, backfill.progress.left_alone
    );
    if backfill.dag_is_paused {
        write!(
            text,
            "\nits DAG is paused: `pinwheel dags unpause {}` lets it begin",
            backfill.dag_id
        )
        .expect("a string takes every text");
    }
    output::text(&text)
}

/// Waits until nothing more happens by itself.
async fn wait_until_over(
    store: &Store,
    backfill_id: BackfillId,
    changes: &mut Changes,
) -> Result<()> {
    loop {
        let backfill = store.backfill(backfill_id).await?;
        let has_stopped =
            backfill.state == BackfillState::Stopped && backfill.progress.running == 0;
        if backfill.state.is_final() || has_stopped {
            return Ok(());
        }
        // A notification can be lost with its connection; looking now and then costs nothing.
        let _look_anyway = tokio::time::timeout(Duration::from_secs(2), changes.next()).await;
    }
}

fn verdict(backfill: &BackfillRow) -> Result<()> {
    if backfill.state == BackfillState::Success {
        return Ok(());
    }
    let id = backfill.backfill_id;
    Err(
        Failure::failed(format!("backfill {id} is {}", state(backfill))).hint(format!(
            "`pinwheel backfill show {id}` says which dates failed"
        )),
    )
}

/// What a backfill would do, for people.
fn plan(planned: &[PlannedDate]) -> String {
    let rows = planned.iter().map(|date| {
        [
            output::time(date.logical_date),
            output::time(date.data_interval_end),
            date.run_id
                .map_or_else(|| "-".to_owned(), |run| run.to_string()),
            date.run_state
                .map_or_else(|| "no run".to_owned(), |state| output::word(&state)),
            match date.action {
                DateAction::Make => "make a run".to_owned(),
                DateAction::Clear => "clear it".to_owned(),
                DateAction::Leave => "leave it alone".to_owned(),
            },
        ]
    });
    let count = |action| planned.iter().filter(|date| date.action == action).count();
    format!(
        "{}\n\n{} dates: {} runs to make, {} to clear, {} left alone; nothing was done",
        output::columns(
            ["logical date", "interval ends", "run", "state", "it would"],
            rows
        ),
        planned.len(),
        count(DateAction::Make),
        count(DateAction::Clear),
        count(DateAction::Leave),
    )
}

async fn list(settings: &Settings, arguments: List) -> Result<()> {
    let store = client::connect(settings).await?;
    let backfills = store
        .backfills(&BackfillFilter {
            dag_id: arguments.dag,
            before: arguments.before,
            limit: arguments.limit,
        })
        .await?;
    if arguments.json {
        return output::json(&backfills);
    }
    let rows = backfills.iter().map(|backfill| {
        [
            backfill.backfill_id.to_string(),
            backfill.dag_id.to_string(),
            state(backfill),
            output::time(backfill.from),
            output::time(backfill.to),
            output::word(&backfill.reprocess),
            progress(&backfill.progress),
        ]
    });
    output::text(&output::columns(
        [
            "backfill",
            "dag",
            "state",
            "from",
            "to",
            "reprocess",
            "progress",
        ],
        rows,
    ))
}

async fn show(settings: &Settings, arguments: &Show) -> Result<()> {
    let store = client::connect(settings).await?;
    let backfill = store.backfill(arguments.backfill).await?;
    let dates = store
        .backfill_dates(arguments.backfill, 0, i64::MAX)
        .await?;
    if arguments.json {
        let mut shown = serde_json::to_value(&backfill).expect("a row has only text keys");
        shown["dates"] = json!(dates);
        return output::json(&shown);
    }
    output::text(&description(&backfill, &dates))
}

/// A backfill and its dates, for people.
fn description(backfill: &BackfillRow, dates: &[BackfillDateRow]) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        writeln!(text, "{label:13} {value}").expect("a string takes every text");
    };
    line(
        "backfill",
        &format!("{} of {}", backfill.backfill_id, backfill.dag_id),
    );
    line("state", &state(backfill));
    line(
        "range",
        &format!(
            "{} to {}, {}",
            output::time(backfill.from),
            output::time(backfill.to),
            output::word(&backfill.direction)
        ),
    );
    line("reprocess", &output::word(&backfill.reprocess));
    line("at once", &format!("{} runs", backfill.max_active_runs));
    line(
        "on failure",
        match backfill.on_failure {
            OnFailure::Continue => "go on",
            OnFailure::Stop => "stop until it is resumed",
        },
    );
    if !backfill.params.is_empty() {
        line("params", &json!(backfill.params).to_string());
    }
    line("made by", &backfill.created_by);
    line("progress", &progress(&backfill.progress));
    let rows = dates.iter().take(SHOWN).map(|date| {
        [
            output::time(date.logical_date),
            date.run_id
                .map_or_else(|| "-".to_owned(), |run| run.to_string()),
            date.run_state
                .map_or_else(|| "-".to_owned(), |state| output::word(&state)),
            match date.state {
                DateState::Waiting => "its turn has not come",
                DateState::Made => "the run was made",
                DateState::Cleared => "the run was cleared",
                DateState::Left => "left alone",
                DateState::Cancelled => "cancelled before its turn",
            }
            .to_owned(),
        ]
    });
    text.push('\n');
    text.push_str(&output::columns(
        ["logical date", "run", "state", "what was done"],
        rows,
    ));
    if dates.len() > SHOWN {
        write!(text, "\nand {} more: --json has all", dates.len() - SHOWN)
            .expect("a string takes every text");
    }
    text
}

fn state(backfill: &BackfillRow) -> String {
    match backfill.state {
        BackfillState::Running if backfill.dag_is_paused => "running (DAG paused)".to_owned(),
        BackfillState::Stopped => "stopped at a failure".to_owned(),
        state @ (BackfillState::Running
        | BackfillState::Paused
        | BackfillState::Success
        | BackfillState::Failed
        | BackfillState::Cancelled) => state.name().to_owned(),
    }
}

/// What is not zero, and of how many.
fn progress(progress: &Progress) -> String {
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
    format!("{} of {}", words.join(", "), progress.total)
}

async fn steer(settings: &Settings, arguments: &One, steer: Steer) -> Result<()> {
    let store = client::connect(settings).await?;
    store
        .steer_backfill(arguments.backfill, steer, &client::actor())
        .await?;
    client::ring(&store).await;
    say(&store, arguments.backfill, arguments.json).await
}

async fn cancel(settings: &Settings, arguments: &Cancel) -> Result<()> {
    let store = client::connect(settings).await?;
    let open_runs = if arguments.running {
        OpenRuns::Cancel
    } else {
        OpenRuns::Keep
    };
    store
        .cancel_backfill(arguments.backfill, open_runs, &client::actor())
        .await?;
    client::ring(&store).await;
    say(&store, arguments.backfill, arguments.json).await
}

async fn say(store: &Store, backfill_id: BackfillId, as_json: bool) -> Result<()> {
    let backfill = store.backfill(backfill_id).await?;
    if as_json {
        return output::json(&backfill);
    }
    output::text(&format!(
        "backfill {backfill_id} is {}: {}",
        state(&backfill),
        progress(&backfill.progress)
    ))
}

#[cfg(test)]
mod tests {
    use pinwheel_scheduler::model::{RunId, RunState};

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("an instant")
    }

    #[test]
    fn a_day_is_all_of_it_by_the_clock_of_the_schedule() {
        let range = |day: &str, zone| {
            let day = end(day).expect("a day");
            (day.first(zone), day.last(zone))
        };
        assert_eq!(
            range("2026-01-31", Tz::UTC),
            (
                at("2026-01-31T00:00:00Z"),
                at("2026-01-31T23:59:59.999999Z")
            )
        );
        assert_eq!(
            range("2026-03-29", Tz::Europe__London),
            (
                at("2026-03-29T00:00:00Z"),
                at("2026-03-29T22:59:59.999999Z")
            ),
            "a day of 23 hours"
        );
        assert_eq!(
            range("2026-09-06", Tz::America__Santiago),
            (
                at("2026-09-06T04:00:00Z"),
                at("2026-09-07T02:59:59.999999Z")
            ),
            "a day that begins at one"
        );
        assert_eq!(
            end("2026-01-31T03:00:00+01:00"),
            Ok(End::Instant(at("2026-01-31T02:00:00Z")))
        );
        assert!(end("yesterday").is_err());
    }

    #[test]
    fn people_read_what_a_backfill_would_do() {
        let date = |day: &str, run: Option<(i64, RunState)>, action| PlannedDate {
            logical_date: at(&format!("2026-01-{day}T02:00:00Z")),
            data_interval_end: at(&format!("2026-01-{day}T02:00:00Z")) + chrono::TimeDelta::days(1),
            run_id: run.map(|(run, _)| RunId(run)),
            run_state: run.map(|(_, state)| state),
            action,
        };
        insta::assert_snapshot!(plan(&[
            date("01", None, DateAction::Make),
            date("02", Some((7, RunState::Failed)), DateAction::Clear),
            date("03", Some((8, RunState::Success)), DateAction::Leave),
        ]), @"
        LOGICAL DATE          INTERVAL ENDS         RUN  STATE    IT WOULD
        2026-01-01 02:00:00Z  2026-01-02 02:00:00Z  -    no run   make a run
        2026-01-02 02:00:00Z  2026-01-03 02:00:00Z  7    failed   clear it
        2026-01-03 02:00:00Z  2026-01-04 02:00:00Z  8    success  leave it alone

        3 dates: 1 runs to make, 1 to clear, 1 left alone; nothing was done
        ");
    }

    #[test]
    fn people_read_how_far_a_backfill_is() {
        let half = Progress {
            total: 9,
            success: 3,
            failed: 1,
            running: 2,
            waiting: 3,
            ..Progress::default()
        };
        insta::assert_snapshot!(progress(&half), @"3 success, 1 failed, 2 running, 3 waiting of 9");
    }
}
