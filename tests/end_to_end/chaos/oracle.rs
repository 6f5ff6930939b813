//! Judges what happened: the database and the ledger must tell the same story, and it must be the one that the pure rules
//! tell of the same DAGs without any fault.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use pinwheel_scheduler::model::TaskState;
use sqlx::{FromRow, PgPool};

use super::{
    fleet::{Fleet, Trouble},
    ledger::{End, Execution},
    workload::{self, Shape},
};

/// Whether two executions of one task instance may never be alive at the same time, even when the worker of the earlier one
/// was killed, stopped or cut off: its warden ends what it has started before its lease is over. Where there is no warden
/// this is off.
const LOST_WORKERS_LEAVE_NO_PROCESSES: bool = true;

/// Two clocks of one machine, read one after the other.
const CLOCK_STEP: i64 = 10_000_000;

/// Something that must not be.
#[derive(Debug)]
pub(super) struct Violation {
    pub(super) what: String,
    /// The run and the task whose lines in the ledger say more.
    pub(super) about: Option<(i64, String)>,
}

/// What the judges have to know besides the database.
pub(super) struct Evidence<'a> {
    pub(super) shapes: &'a [Shape],
    pub(super) fleet: &'a Fleet,
    pub(super) executions: &'a [Execution],
    /// Runs that were asked for: their DAG and logical date, and the number they were given.
    pub(super) asked: &'a BTreeMap<(String, DateTime<Utc>), i64>,
    /// When every tick until then had its run.
    pub(super) caught_up_at: DateTime<Utc>,
    /// In nanoseconds.
    pub(super) lease: i64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    pub(super) violations: Vec<Violation>,
    /// For people.
    pub(super) notes: Vec<String>,
}

impl Judgement {
    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(Violation {
                what: what(),
                about: None,
            });
        }
    }

    fn require_of(&mut self, run: i64, task: &str, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(Violation {
                what: format!("run {run}, task `{task}`: {}", what()),
                about: Some((run, task.to_owned())),
            });
        }
    }
}

#[derive(Debug, FromRow)]
struct RunRow {
    run_id: i64,
    dag_id: String,
    kind: String,
    state: String,
    logical_date: DateTime<Utc>,
    unfinished: i32,
    failures: i32,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

#[derive(Debug, FromRow)]
struct InstanceRow {
    instance_id: i64,
    run_id: i64,
    dag_id: String,
    task_id: String,
    state: String,
    epoch: i32,
    tries: i32,
    lost: i32,
    counters: String,
    recount: String,
    token: Option<String>,
}

#[derive(Debug, FromRow)]
struct TryRow {
    instance_id: i64,
    epoch: i32,
    try_number: i32,
    worker: String,
    outcome: String,
    failure_class: Option<String>,
    started_at: DateTime<Utc>,
    finished_at: DateTime<Utc>,
}

#[derive(Debug, FromRow)]
struct WorkerRow {
    name: String,
    lease_until: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

/// What the database says, read once everything was final.
struct Records {
    runs: Vec<RunRow>,
    instances: Vec<InstanceRow>,
    tries: Vec<TryRow>,
    workers: Vec<WorkerRow>,
    leftovers: Vec<(String, i64)>,
    first_version_of_ticks: DateTime<Utc>,
}

const INSTANCES: &str = "
    select i.instance_id, i.run_id, r.dag_id, t.task_id, i.state::text, i.epoch, i.tries, i.lost,
        concat_ws(' ', i.pending, i.ok, i.failed, i.upstream_failed, i.skipped) as counters,
        (select concat_ws(' ',
                count(*) filter (where u.state in ('waiting', 'queued', 'running', 'sleeping')),
                count(*) filter (where u.state = 'success'),
                count(*) filter (where u.state in ('failed', 'cancelled')),
                count(*) filter (where u.state = 'upstream_failed'),
                count(*) filter (where u.state = 'skipped'))
            from edge e join task_instance u on u.run_id = i.run_id and u.ordinal = e.upstream
            where e.version_id = r.version_id and e.downstream = i.ordinal) as recount,
        (select o.output ->> 'token' from output o where o.instance_id = i.instance_id) as token
    from task_instance i join run r using (run_id)
    join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
    order by i.run_id, i.ordinal";

const LEFTOVERS: &str = "
    select 'ready', count(*) from ready union all select 'sleeper', count(*) from sleeper
    union all select 'pool_use', count(*) from pool_use union all select 'gate_use', count(*) from gate_use
    union all select 'parked', count(*) from parked union all select 'resume', count(*) from resume";

impl Records {
    async fn read(database: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self {
            runs: sqlx::query_as(
                "select run_id, dag_id, kind::text, state::text, logical_date, unfinished, failures, started_at,
                    finished_at from run order by run_id",
            )
            .fetch_all(database)
            .await?,
            instances: sqlx::query_as(INSTANCES).fetch_all(database).await?,
            tries: sqlx::query_as(
                "select t.instance_id, t.epoch, t.try_number, w.name as worker, coalesce(t.outcome::text, 'none') as outcome,
                    t.failure_class, t.started_at, t.finished_at
                from try t join worker w using (worker_id) order by t.instance_id, t.epoch",
            )
            .fetch_all(database)
            .await?,
            workers: sqlx::query_as("select name, lease_until, ended_at from worker order by worker_id")
                .fetch_all(database)
                .await?,
            leftovers: sqlx::query_as(LEFTOVERS).fetch_all(database).await?,
            first_version_of_ticks: sqlx::query_scalar(
                "select min(created_at) from dag_version where dag_id = $1",
            )
            .bind(workload::TICKS)
            .fetch_one(database)
            .await?,
        })
    }
}

/// Judges everything.
///
/// # Errors
/// The database cannot be read.
pub(super) async fn judge(
    database: &PgPool,
    evidence: &Evidence<'_>,
) -> Result<Judgement, sqlx::Error> {
    let records = Records::read(database).await?;
    let mut judgement = Judgement::default();
    judge_runs(&records, evidence, &mut judgement);
    judge_ticks(&records, evidence, &mut judgement);
    judge_instances(&records, evidence, &mut judgement);
    judge_limits(&records, evidence, &mut judgement);
    let troubles = troubles(&records, evidence, &mut judgement);
    judge_executions(&records, evidence, &troubles, &mut judgement);
    for (table, rows) in &records.leftovers {
        judgement.require(*rows == 0, || format!("`{table}` has {rows} rows left"));
    }
    Ok(judgement)
}

/// Every run that was asked for is there once, and every one that is there was asked for.
fn judge_runs(records: &Records, evidence: &Evidence<'_>, judgement: &mut Judgement) {
    let mut asked = evidence.asked.clone();
    for run in &records.runs {
        match run.kind.as_str() {
            "scheduled" => judgement.require(run.dag_id == workload::TICKS, || {
                format!("run {} of `{}` has no schedule", run.run_id, run.dag_id)
            }),
            "manual" => {
                let number = asked.remove(&(run.dag_id.clone(), run.logical_date));
                judgement.require(number == Some(run.run_id), || {
                    format!("run {} was asked for as {number:?}", run.run_id)
                });
            }
            other => judgement.require(false, || format!("run {} is of kind {other}", run.run_id)),
        }
        let shape = shape(evidence.shapes, &run.dag_id);
        let (_, expected) = shape.expected();
        judgement.require(run.state == expected.as_str(), || {
            format!(
                "run {} of `{}` is {}, not {}",
                run.run_id,
                run.dag_id,
                run.state,
                expected.as_str()
            )
        });
        let failures = shape.failures();
        judgement.require((run.unfinished, run.failures) == (0, failures), || {
            format!(
                "run {} counts {} unfinished and {} failures, not 0 and {failures}",
                run.run_id, run.unfinished, run.failures
            )
        });
    }
    judgement.require(asked.is_empty(), || format!("runs were lost: {asked:?}"));
}

/// From the first tick to the last each has one run.
fn judge_ticks(records: &Records, evidence: &Evidence<'_>, judgement: &mut Judgement) {
    let every = chrono::TimeDelta::seconds(workload::TICK_SECONDS);
    let mut dates: Vec<DateTime<Utc>> = records
        .runs
        .iter()
        .filter(|run| run.kind == "scheduled")
        .map(|run| run.logical_date)
        .collect();
    dates.sort_unstable();
    let (Some(first), Some(last)) = (dates.first().copied(), dates.last().copied()) else {
        judgement.require(false, || "no tick had a run".to_owned());
        return;
    };
    for pair in dates.windows(2) {
        judgement.require(pair[1] - pair[0] == every, || {
            format!(
                "no run, or two, between the ticks {} and {}",
                pair[0], pair[1]
            )
        });
    }
    let began = records.first_version_of_ticks;
    judgement.require(first <= began, || {
        format!("the schedule began at {began}, its first run is for {first}")
    });
    let until = evidence.caught_up_at;
    judgement.require(last + every + every > until, || {
        format!("every tick until {until} should have a run, the last is for {last}")
    });
    judgement
        .notes
        .push(format!("{} ticks without a gap", dates.len()));
}

/// Each task instance is there once, in the state that the rules give, after the tries that its fate costs.
fn judge_instances(records: &Records, evidence: &Evidence<'_>, judgement: &mut Judgement) {
    let mut of_run: BTreeMap<i64, Vec<&InstanceRow>> = BTreeMap::new();
    for instance in &records.instances {
        of_run.entry(instance.run_id).or_default().push(instance);
    }
    let mut of_instance: BTreeMap<i64, Vec<&TryRow>> = BTreeMap::new();
    for row in &records.tries {
        of_instance.entry(row.instance_id).or_default().push(row);
    }
    for run in &records.runs {
        let shape = shape(evidence.shapes, &run.dag_id);
        let (mut expected, _) = shape.expected();
        for instance in of_run.remove(&run.run_id).unwrap_or_default() {
            let (run_id, task) = (instance.run_id, instance.task_id.as_str());
            let Some(expected) = expected.remove(task) else {
                judgement.require_of(run_id, task, false, || "it is there twice".to_owned());
                continue;
            };
            judgement.require_of(
                run_id,
                task,
                instance.state == expected.state.as_str(),
                || format!("it is {}, not {}", instance.state, expected.state.as_str()),
            );
            judgement.require_of(run_id, task, instance.counters == instance.recount, || {
                format!(
                    "its counters are {}, a recount gives {}",
                    instance.counters, instance.recount
                )
            });
            let succeeds = i32::from(expected.state == TaskState::Success);
            let tries = expected.failed_tries + succeeds;
            judgement.require_of(run_id, task, instance.tries == tries, || {
                format!("it took {} tries, not {tries}", instance.tries)
            });
            let history = of_instance
                .remove(&instance.instance_id)
                .unwrap_or_default();
            judge_history(
                instance,
                &history,
                (succeeds, expected.failed_tries),
                judgement,
            );
        }
        judgement.require(expected.is_empty(), || {
            format!("run {} has lost {:?}", run.run_id, expected.keys())
        });
    }
    judgement.require(of_run.is_empty() && of_instance.is_empty(), || {
        format!(
            "rows without a run: {:?}, {:?}",
            of_run.keys(),
            of_instance.keys()
        )
    });
}

fn judge_history(
    instance: &InstanceRow,
    history: &[&TryRow],
    (successes, failures): (i32, i32),
    judgement: &mut Judgement,
) {
    let (run, task) = (instance.run_id, instance.task_id.as_str());
    let of = |outcome: &str| {
        let rows = history.iter().filter(|row| row.outcome == outcome);
        i32::try_from(rows.count()).expect("a handful")
    };
    let (success, failed, lost) = (of("success"), of("failed"), of("lost"));
    judgement.require_of(run, task, (success, failed) == (successes, failures), || {
        format!("{success} successes and {failed} failures are recorded, not {successes} and {failures}")
    });
    judgement.require_of(run, task, lost == instance.lost, || {
        format!(
            "{lost} lost executions are recorded, {} counted",
            instance.lost
        )
    });
    let total = i32::try_from(history.len()).expect("a handful");
    judgement.require_of(run, task, success + failed + lost == total, || {
        let others: Vec<_> = history.iter().map(|row| row.outcome.as_str()).collect();
        format!("outcomes that cannot be: {others:?}")
    });
    judgement.require_of(run, task, total <= instance.epoch, || {
        format!("{total} ends are recorded of {} claims", instance.epoch)
    });
    for row in history {
        judgement.require_of(
            run,
            task,
            row.failure_class.as_deref() != Some("killed"),
            || {
                format!(
                    "claim {} spent a try on being killed by its own worker",
                    row.epoch
                )
            },
        );
    }
    for pair in history.windows(2) {
        let (one, next) = (pair[0], pair[1]);
        judgement.require_of(run, task, one.try_number <= next.try_number, || {
            format!("try {} came after try {}", next.try_number, one.try_number)
        });
        judgement.require_of(run, task, one.finished_at <= next.started_at, || {
            format!(
                "claim {} began before claim {} was over",
                next.epoch, one.epoch
            )
        });
    }
}

/// `max_active_runs` and the slots of the pool held at every moment.
fn judge_limits(records: &Records, evidence: &Evidence<'_>, judgement: &mut Judgement) {
    for shape in evidence.shapes {
        let spans = records.runs.iter().filter(|run| run.dag_id == shape.id);
        let most = most_at_once(spans.filter_map(|run| Some((run.started_at?, run.finished_at?))));
        judgement.require(most <= shape.max_active_runs, || {
            format!(
                "{most} runs of `{}` at once, not {}",
                shape.id, shape.max_active_runs
            )
        });
    }
    let narrow: BTreeSet<i64> = records
        .instances
        .iter()
        .filter(|instance| {
            let shape = shape(evidence.shapes, &instance.dag_id);
            shape.pool_of(&instance.task_id) == Some(workload::NARROW)
        })
        .map(|instance| instance.instance_id)
        .collect();
    let spans = records
        .tries
        .iter()
        .filter(|row| narrow.contains(&row.instance_id));
    let most = most_at_once(spans.map(|row| (row.started_at, row.finished_at)));
    let slots = usize::try_from(workload::NARROW_SLOTS).expect("it is positive");
    judgement.require(most <= slots, || {
        format!("{most} tasks at once in a pool of {slots}")
    });
}

fn most_at_once(spans: impl Iterator<Item = (DateTime<Utc>, DateTime<Utc>)>) -> usize {
    let mut steps: Vec<(DateTime<Utc>, i32)> = spans
        .flat_map(|(from, until)| [(from, 1), (until, -1)])
        .collect();
    // An end and a beginning in the same microsecond: the end was first.
    steps.sort_unstable();
    let mut now = 0;
    let most = steps.iter().map(|(_, step)| {
        now += step;
        now
    });
    usize::try_from(most.max().unwrap_or(0)).expect("every end has its beginning")
}

/// When each process was not to be relied on: the faults, and every lease that ended, for whatever reason.
fn troubles<'a>(
    records: &'a Records,
    evidence: &'a Evidence<'_>,
    judgement: &mut Judgement,
) -> BTreeMap<&'a str, Vec<Trouble>> {
    let mut troubles: BTreeMap<&str, Vec<Trouble>> = evidence
        .fleet
        .everybody()
        .map(|member| (member.name.as_str(), member.troubles.clone()))
        .collect();
    for worker in &records.workers {
        let Some(ended_at) = worker.ended_at.map(nanos) else {
            continue;
        };
        let own = troubles.entry(worker.name.as_str()).or_default();
        let until = nanos(worker.lease_until);
        let renewed = until - evidence.lease;
        let is_explained = own
            .iter()
            .any(|trouble| trouble.from <= until && renewed <= trouble.until);
        if !is_explained {
            judgement.notes.push(format!(
                "`{}` lost its lease without a fault: the machine was slow, or the engine is wrong",
                worker.name
            ));
        }
        own.push(Trouble {
            what: "its lease ended",
            from: renewed,
            until: ended_at,
        });
    }
    troubles
}

/// What the ledger tells and what is recorded belong together.
fn judge_executions(
    records: &Records,
    evidence: &Evidence<'_>,
    troubles: &BTreeMap<&str, Vec<Trouble>>,
    judgement: &mut Judgement,
) {
    let troubled = |worker: &str, from: i64, until: i64| {
        troubles.get(worker).is_some_and(|troubles| {
            troubles.iter().any(|trouble| {
                trouble.from - evidence.lease <= until && from <= trouble.until + evidence.lease
            })
        })
    };
    let mut told: BTreeMap<(i64, &str), Vec<&Execution>> = BTreeMap::new();
    for execution in evidence.executions {
        told.entry((execution.run, execution.task.as_str()))
            .or_default()
            .push(execution);
    }
    let tokens: BTreeMap<(i64, &str), Option<&str>> = records
        .instances
        .iter()
        .map(|instance| {
            let key = (instance.run_id, instance.task_id.as_str());
            (key, instance.token.as_deref())
        })
        .collect();
    let (mut unrecorded, mut overlaps, mut lost) = (0, 0, 0);
    for instance in &records.instances {
        let (run, task) = (instance.run_id, instance.task_id.as_str());
        let mut executions = told.remove(&(run, task)).unwrap_or_default();
        let claims = usize::try_from(instance.epoch).unwrap_or_default();
        judgement.require_of(run, task, executions.len() <= claims, || {
            format!("{} executions of {claims} claims", executions.len())
        });
        for execution in &executions {
            judge_input(instance, execution, evidence, &tokens, judgement);
        }
        for (place, later) in executions.iter().enumerate() {
            for earlier in &executions[..place] {
                if later.began >= earlier.last {
                    continue;
                }
                overlaps += 1;
                let explained = !LOST_WORKERS_LEAVE_NO_PROCESSES
                    && [earlier, later]
                        .iter()
                        .any(|one| troubled(&one.worker, one.began, one.last));
                judgement.require_of(run, task, explained, || {
                    format!(
                        "`{}` and `{}` ran at the same time",
                        earlier.token, later.token
                    )
                });
            }
        }
        for row in &records.tries {
            if row.instance_id != instance.instance_id {
                continue;
            }
            let (from, until) = (nanos(row.started_at), nanos(row.finished_at));
            let end = match row.outcome.as_str() {
                "success" => End::Success,
                "failed" => End::Failure,
                _lost => {
                    lost += 1;
                    judgement.require_of(run, task, troubled(&row.worker, from, until), || {
                        format!(
                            "claim {} was lost with `{}`, which lived",
                            row.epoch, row.worker
                        )
                    });
                    continue;
                }
            };
            // Recorded times are at most as late as the answer of the database, which may have been long in coming.
            let candidates = executions.iter().enumerate().filter(|(_, execution)| {
                execution.worker == row.worker
                    && execution.try_number == row.try_number
                    && execution.end == Some(end)
                    && execution.last <= until + CLOCK_STEP
                    && (end != End::Success || instance.token.as_ref() == Some(&execution.token))
            });
            let latest = candidates.max_by_key(|(_, execution)| execution.last);
            match latest.map(|(place, _)| place) {
                Some(place) => {
                    executions.remove(place);
                }
                None => judgement.require_of(run, task, false, || {
                    format!(
                        "claim {} is recorded as {} of {}, which did not happen",
                        row.epoch, row.outcome, row.worker
                    )
                }),
            }
        }
        for execution in executions {
            unrecorded += 1;
            let explained = troubled(&execution.worker, execution.began, execution.last);
            judgement.require_of(run, task, explained, || {
                format!(
                    "`{}` happened and is not recorded, and `{}` was well",
                    execution.token, execution.worker
                )
            });
        }
    }
    judgement.require(told.is_empty(), || {
        format!("executions of what does not exist: {:?}", told.keys())
    });
    judgement.notes.push(format!(
        "{} runs, {} task instances, {} executions: {} recorded ends, {lost} lost, {unrecorded} without a recorded end, {overlaps} overlaps",
        records.runs.len(),
        records.instances.len(),
        evidence.executions.len(),
        records.tries.len() - lost,
    ));
}

/// A task was given the output of the upstream try that is recorded, however often that ran.
fn judge_input(
    instance: &InstanceRow,
    execution: &Execution,
    evidence: &Evidence<'_>,
    tokens: &BTreeMap<(i64, &str), Option<&str>>,
    judgement: &mut Judgement,
) {
    let shape = shape(evidence.shapes, &instance.dag_id);
    let wanted = shape
        .read_by(&instance.task_id)
        .and_then(|upstream| tokens.get(&(instance.run_id, upstream)).copied().flatten());
    let saw = execution.saw.as_deref();
    judgement.require_of(instance.run_id, &instance.task_id, saw == wanted, || {
        format!("`{}` was given {saw:?}, not {wanted:?}", execution.token)
    });
}

fn shape<'a>(shapes: &'a [Shape], id: &str) -> &'a Shape {
    shapes
        .iter()
        .find(|shape| shape.id == id)
        .expect("only generated DAGs have runs")
}

fn nanos(at: DateTime<Utc>) -> i64 {
    at.timestamp_nanos_opt().expect("it is earlier than 2262")
}
