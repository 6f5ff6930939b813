//! `pinwheel db`: looking after the database.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use clap::{Args, Subcommand};
use pinwheel_scheduler::store::{
    Checked, Finding, Keep, Prune, Removed, Repaired, Retention, Store,
};
use serde_json::{Value, json};

use super::{client, output};
use crate::{
    failure::{Failure, Result},
    progress::Progress,
    roles,
    settings::{self, Settings},
};

/// Findings that are printed for people at most; programs get all.
const MOST_ROWS: usize = 200;

/// `pinwheel db …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring the database to the schema of this version; does nothing when it is there already
    Migrate,
    /// Look for what is wrong in the database, and mend it with --repair
    #[command(after_help = "\
It recounts counters, and finds what may be claimed and is not queued, what is queued and cannot be claimed, leases
without tasks, tasks without a worker, runs that nothing would ever close. Without --repair nothing is changed. A busy
engine may go on meanwhile: what is merely on its way is no finding, and a repair locks one run at a time.

Examples:
  pinwheel db check             what is wrong, and what a repair would do about it
  pinwheel db check --repair    mend it, then look again

Exit codes: 0 when nothing is wrong (any more), 1 when something is.")]
    Check(Check),
    /// Remove old runs now, with their history, logs and outputs
    #[command(after_help = "\
A scheduler does the same every hour, by the settings `retention.runs` and `retention.keep`. Runs that are not final stay,
and so do the last runs of each DAG. What was landed, cleaned and reported is not touched, nor are the cursors of topics.

Examples:
  pinwheel db prune --dry-run                   what the settings would remove
  pinwheel db prune --older-than 30d --keep 5   remove more than they say")]
    Prune(PruneArguments),
}

/// Arguments of `db check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Mend what is wrong, then look again
    #[arg(long)]
    repair: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `db prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArguments {
    /// Remove runs that ended longer ago than this [default: the setting `retention.runs`]
    #[arg(long, value_name = "AGE", value_parser = settings::keep)]
    older_than: Option<Keep>,
    /// Keep the last so many runs of each DAG whatever their age [default: the setting `retention.keep`]
    #[arg(long, value_name = "NUMBER")]
    keep: Option<u32>,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(crate) async fn run(self, settings: &Settings) -> Result<()> {
        match self {
            Self::Migrate => migrate(settings).await,
            Self::Check(arguments) => check(settings, &arguments).await,
            Self::Prune(arguments) => prune(settings, &arguments).await,
        }
    }
}

async fn migrate(settings: &Settings) -> Result<()> {
    let url = settings.require_database("db migrate")?;
    Store::connect(url).await?.migrate().await?;
    roles::migrate_live(url).await?;
    output::text("the database has the schema of this version")
}

async fn check(settings: &Settings, arguments: &Check) -> Result<()> {
    let store = client::connect(settings).await?;
    if !arguments.repair {
        let checked = store.check().await?;
        if arguments.json {
            output::json(&as_json(&checked))?;
        } else {
            output::text(&description(&checked))?;
        }
        return verdict(&checked, "`pinwheel db check --repair` mends it");
    }
    let repaired = store.repair(&client::actor()).await?;
    if repaired.changed > 0 {
        client::ring(&store).await;
    }
    if arguments.json {
        let mut answer = as_json(&repaired.found);
        answer["repair"] = json!({ "changes": repaired.changed, "left": as_json(&repaired.left) });
        output::json(&answer)?;
    } else {
        output::text(&repair_description(&repaired))?;
    }
    verdict(
        &repaired.left,
        "what is left was not mended in several attempts; its rows say what is stored and what should be",
    )
}

/// Fails when something is wrong.
fn verdict(checked: &Checked, hint: &str) -> Result<()> {
    match checked.findings.len() {
        0 => Ok(()),
        count => Err(
            Failure::failed(format!("{} in the database", counted(count, "finding"))).hint(hint),
        ),
    }
}

fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// What was looked at: `12 open runs, 340 task instances, 7 ready, 2 asleep checked in 0.03 s`.
fn scope(checked: &Checked) -> String {
    let Checked {
        open_runs,
        task_instances,
        ready,
        asleep,
        took,
        findings: _,
    } = checked;
    let plural = |count: &i64| if *count == 1 { "" } else { "s" };
    format!(
        "{open_runs} open run{}, {task_instances} task instance{}, {ready} ready, {asleep} asleep checked in {:.2} s",
        plural(open_runs),
        plural(task_instances),
        took.as_secs_f64()
    )
}

fn description(checked: &Checked) -> String {
    if checked.findings.is_empty() {
        return format!("the database is consistent: {}", scope(checked));
    }
    format!("{}\n\n{}", table(&checked.findings), scope(checked))
}

fn repair_description(repaired: &Repaired) -> String {
    let Repaired {
        found,
        changed,
        left,
    } = repaired;
    if found.findings.is_empty() {
        return description(left);
    }
    let changes = if *changed == 1 { "change" } else { "changes" };
    format!(
        "{}\n\nmended with {changed} {changes}, then looked again\n\n{}",
        table(&found.findings),
        description(left)
    )
}

fn table(findings: &[Finding]) -> String {
    let rows = findings.iter().take(MOST_ROWS).map(|finding| {
        [
            output::word(&finding.kind),
            place(finding),
            finding.stored.clone(),
            finding.expected.clone(),
            finding.kind.repair().to_owned(),
        ]
    });
    let mut text = output::columns(["what", "where", "stored", "expected", "repair"], rows);
    if findings.len() > MOST_ROWS {
        text.push_str(&format!(
            "\nand {} more; --json prints all",
            findings.len() - MOST_ROWS
        ));
    }
    text
}

/// Where something is wrong: `daily, run 12, task clean[3]`.
fn place(finding: &Finding) -> String {
    let mut parts = Vec::new();
    if let Some(dag_id) = &finding.dag_id {
        parts.push(dag_id.to_string());
    }
    if let Some(run_id) = finding.run_id {
        parts.push(format!("run {run_id}"));
    }
    match (&finding.task_id, finding.map_index, finding.instance_id) {
        (Some(task_id), Some(item @ 0..), _) => parts.push(format!("task {task_id}[{item}]")),
        (Some(task_id), _, _) => parts.push(format!("task {task_id}")),
        (None, _, Some(instance_id)) => parts.push(format!("task instance {instance_id}")),
        (None, _, None) => {}
    }
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join(", ")
    }
}

fn as_json(checked: &Checked) -> Value {
    let mut answer = serde_json::to_value(checked).expect("a check has only text keys");
    answer["consistent"] = json!(checked.findings.is_empty());
    for (value, finding) in answer["findings"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .zip(&checked.findings)
    {
        value["repair"] = json!(finding.kind.repair());
    }
    answer
}

async fn prune(settings: &Settings, arguments: &PruneArguments) -> Result<()> {
    let store = client::connect(settings).await?;
    let retention = Retention {
        runs: arguments.older_than.unwrap_or(settings.retention.runs),
        keep: arguments.keep.unwrap_or(settings.retention.keep),
    };
    let (prune, doing) = if arguments.dry_run {
        (Prune::Count, "counting what is old")
    } else {
        (Prune::Remove, "removing what is old")
    };
    let progress = Progress::start(doing);
    let removed = pass(&store, retention, prune, &progress).await;
    progress.end();
    let removed = removed?;
    if removed.rows() > 0 && !arguments.dry_run {
        client::ring(&store).await;
    }
    if arguments.json {
        return output::json(&json!({
            "dry_run": arguments.dry_run,
            "older_than": retention.runs.to_string(),
            "keep": retention.keep,
            "removed": removed,
        }));
    }
    output::text(&prune_description(retention, arguments.dry_run, &removed))
}

async fn pass(
    store: &Store,
    retention: Retention,
    prune: Prune,
    progress: &Progress,
) -> Result<Removed> {
    let mut pass = store
        .begin_pass(retention, prune, TimeDelta::zero())
        .await?;
    let mut total = Removed::default();
    loop {
        let began = Instant::now();
        let Some(removed) = pass.step().await? else {
            return Ok(total);
        };
        total += removed;
        progress.note(&format!("{} runs, {} rows", total.runs, total.rows()));
        // An engine may be busy on the same Postgres; half of the time is its own.
        tokio::time::sleep(began.elapsed().min(Duration::from_secs(1))).await;
    }
}

fn prune_description(retention: Retention, is_dry: bool, removed: &Removed) -> String {
    let kept = match retention.runs {
        Keep::Forever => "runs are kept forever".to_owned(),
        Keep::For(_) => format!(
            "kept are runs that ended within {}, and the last {} of each DAG",
            retention.runs, retention.keep
        ),
    };
    if removed.rows() == 0 {
        return format!("nothing is old enough; {kept}");
    }
    let heading = if is_dry {
        "would be removed"
    } else {
        "removed"
    };
    let rows = removed
        .parts()
        .into_iter()
        .filter(|(_, rows)| *rows > 0)
        .map(|(what, rows)| [what.replace('_', " "), rows.to_string()]);
    format!("{}\n\n{kept}", output::columns(["what", heading], rows))
}

#[cfg(test)]
mod tests {
    use pinwheel_scheduler::{
        model::{DagId, InstanceId, RunId, TaskId},
        store::FindingKind,
    };

    use super::*;

    fn checked(findings: Vec<Finding>) -> Checked {
        Checked {
            open_runs: 12,
            task_instances: 340,
            ready: 7,
            asleep: 2,
            took: Duration::from_millis(31),
            findings,
        }
    }

    fn finding(kind: FindingKind, task: Option<(&str, i32)>) -> Finding {
        Finding {
            kind,
            dag_id: DagId::new("daily"),
            run_id: Some(RunId(12)),
            task_id: task.and_then(|(id, _)| TaskId::new(id)),
            map_index: task.map(|(_, item)| item),
            instance_id: task.map(|_| InstanceId(77)),
            stored: "no ready row".to_owned(),
            expected: "a ready row: it is queued".to_owned(),
        }
    }

    #[test]
    fn a_consistent_database_is_one_line() {
        insta::assert_snapshot!(
            description(&checked(Vec::new())),
            @"the database is consistent: 12 open runs, 340 task instances, 7 ready, 2 asleep checked in 0.03 s"
        );
    }

    #[test]
    fn findings_say_what_is_stored_what_should_be_and_what_a_repair_does() {
        let found = checked(vec![
            finding(FindingKind::ReadyMissing, Some(("clean", 3))),
            finding(FindingKind::RunNotClosed, None),
        ]);
        insta::assert_snapshot!(description(&found), @"
        WHAT            WHERE                         STORED        EXPECTED                   REPAIR
        ready_missing   daily, run 12, task clean[3]  no ready row  a ready row: it is queued  make it claimable
        run_not_closed  daily, run 12                 no ready row  a ready row: it is queued  close the run

        12 open runs, 340 task instances, 7 ready, 2 asleep checked in 0.03 s
        ");
        let failure = verdict(&found, "hint").expect_err("there are findings");
        assert_eq!(failure.to_string(), "2 findings in the database");
    }

    #[test]
    fn every_finding_in_json_names_its_repair() {
        let answer = as_json(&checked(vec![finding(
            FindingKind::ParkedForever,
            Some(("clean", -1)),
        )]));
        assert_eq!(answer["consistent"], false);
        assert_eq!(answer["findings"][0]["kind"], "parked_forever");
        assert_eq!(
            answer["findings"][0]["repair"],
            FindingKind::ParkedForever.repair()
        );
        assert_eq!(answer["seconds"], 0.031);
    }

    #[test]
    fn a_prune_lists_only_what_it_removed() {
        let removed = Removed {
            runs: 20,
            task_instances: 200,
            ..Removed::default()
        };
        insta::assert_snapshot!(prune_description(Retention::default(), true, &removed), @"
        WHAT            WOULD BE REMOVED
        runs            20
        task instances  200

        kept are runs that ended within 90d, and the last 30 of each DAG
        ");
        assert_eq!(
            prune_description(
                Retention {
                    runs: Keep::Forever,
                    keep: 30
                },
                false,
                &Removed::default()
            ),
            "nothing is old enough; runs are kept forever"
        );
    }
}
