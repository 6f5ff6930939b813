//! What the store holds, read in plain SQL that shares nothing with its own statements.

use sqlx::FromRow;

use super::{
    super::Store,
    world::{Recorded, World},
};
use crate::model::{DagId, InstanceId, RunId, RunState, SleepReason, TaskState, WorkerId};

/// Everything that must hold between any two transactions, whoever they are; returns what does not.
const WRONG: &str = "
with counted as (
    select d.instance_id, d.state, d.run_id, r.state as run_state, r.version_id, d.ordinal,
        (d.pending, d.ok, d.failed, d.upstream_failed, d.skipped) as kept,
        (count(u.instance_id) filter (where u.state in ('waiting', 'queued', 'running', 'sleeping'))::integer,
        count(u.instance_id) filter (where u.state = 'success')::integer,
        count(u.instance_id) filter (where u.state in ('failed', 'cancelled'))::integer,
        count(u.instance_id) filter (where u.state = 'upstream_failed')::integer,
        count(u.instance_id) filter (where u.state = 'skipped')::integer) as truth,
        d.pending
    from run r join task_instance d on d.run_id = r.run_id
    left join edge e on e.version_id = r.version_id and e.downstream = d.ordinal
    left join task_instance u on u.run_id = r.run_id and u.ordinal = e.upstream
    group by d.instance_id, r.run_id
), run_counted as (
    select r.run_id, r.dag_id, r.state, r.unfinished, r.failures,
        count(*) filter (where i.state in ('waiting', 'queued', 'running', 'sleeping')) as open,
        count(*) filter (where i.state in ('failed', 'cancelled') and not t.allow_failure) as bad,
        count(*) filter (where i.state <> 'waiting') as begun
    from run r join task_instance i on i.run_id = r.run_id
    join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
    group by r.run_id
), owned as (
    select i.instance_id, i.state, i.epoch, i.worker_id, t.pool, p.slots as pool_slots, least(t.slots, p.slots) as takes
    from run r join task_instance i on i.run_id = r.run_id
    join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
    join pool p on p.pool = t.pool
)
select format('counters of %s are %s, a recount says %s', instance_id, kept, truth) from counted where kept <> truth
union all
select format('%s waits for nothing', instance_id) from counted
where state = 'waiting' and run_state = 'running' and pending = 0
union all
select format('run %s counts %s unfinished and %s failures, a recount says %s and %s', run_id, unfinished, failures, open, bad)
from run_counted where state = 'running' and (unfinished <> open or failures <> bad)
union all
select format('run %s is %s with %s task instances that are not final', run_id, state, open) from run_counted
where state in ('success', 'failed', 'cancelled') and open > 0 or state = 'running' and open = 0
union all
select format('run %s is queued and has begun', run_id) from run_counted where state = 'queued' and begun > 0
union all
select format('a run of %s could start', d.dag_id) from dag d
where not d.paused and exists (select from run r where r.dag_id = d.dag_id and r.state = 'queued')
    and d.max_active_runs > (select count(*) from run r where r.dag_id = d.dag_id and r.state = 'running'
        and r.backfill_id is null)
union all
select format('%s is queued or ready, not both', coalesce(q.instance_id, i.instance_id))
from ready q full join (select instance_id from task_instance where state = 'queued') i on i.instance_id = q.instance_id
where q.instance_id is null or i.instance_id is null
union all
select format('%s sleeps or is due, not both', coalesce(s.instance_id, i.instance_id))
from sleeper s full join (select instance_id from task_instance where state = 'sleeping') i on i.instance_id = s.instance_id
where s.instance_id is null or i.instance_id is null
union all
select format('%s keeps what it wanted to resume', s.instance_id)
from resume s left join task_instance i on i.instance_id = s.instance_id
where i.state is null or i.state not in ('queued', 'running', 'sleeping')
union all
select format('%s holds %s slots of pool %s and should hold %s', coalesce(u.instance_id, o.instance_id), u.slots,
    coalesce(u.pool, o.pool), o.takes)
from pool_use u full join (select * from owned where state = 'running' and pool_slots is not null) o
    on o.instance_id = u.instance_id and o.pool = u.pool
where u.slots is distinct from o.takes
union all
select format('pool %s is over its limit', p.pool) from pool p
where p.slots < (select sum(u.slots) from pool_use u where u.pool = p.pool)
union all
select format('%s runs under lease %s, which has ended', o.instance_id, o.worker_id)
from owned o join worker w on w.worker_id = o.worker_id where w.ended_at is not null
union all
select format('%s has history of epoch %s and is at %s, %s', t.instance_id, t.epoch, i.epoch, i.state)
from try t join task_instance i on i.instance_id = t.instance_id
where t.epoch > i.epoch or t.epoch = i.epoch and i.state = 'running'
union all
select format('gate %s is over its limit', g.gate) from gate g
where g.slots < (select count(*) from gate_use u where u.gate = g.gate)
union all
select format('%s is behind gate %s and does not run', u.instance_id, u.gate)
from gate_use u left join task_instance i on i.instance_id = u.instance_id where i.state is distinct from 'running'
union all
select format('%s runs without having passed %s', i.instance_id, i.gates) from task_instance i
where i.state = 'running'
    and cardinality(i.gates) <> (select count(*) from gate_use u where u.instance_id = i.instance_id and u.gate = any(i.gates))
union all
select format('%s is parked behind %s and not ready', p.instance_id, p.gate)
from parked p left join ready r on r.instance_id = p.instance_id where r.parked is distinct from true
union all
select format('%s of %s has %s runs', logical_date, dag_id, count(*)) from run where kind in ('scheduled', 'backfill')
group by dag_id, logical_date having count(*) > 1
union all
select format('backfill %s has %s open runs, a recount says %s, and %s are allowed', b.backfill_id, b.open, o.open,
    b.max_active_runs)
from backfill b cross join lateral (
    select count(*) as open from backfill_date d where d.backfill_id = b.backfill_id and d.is_open) o
where b.finished_at is null and (b.open <> o.open or b.open > b.max_active_runs)
union all
select format('backfill %s waits for run %s, which is %s', b.backfill_id, d.run_id, r.state)
from backfill b join backfill_date d on d.backfill_id = b.backfill_id left join run r on r.run_id = d.run_id
where b.finished_at is null and d.is_open and r.finished_at is not null
union all
select format('backfill %s could begin a run', b.backfill_id) from backfill b join dag g on g.dag_id = b.dag_id
where b.state = 'running' and not g.paused and b.look_at is null and b.open < b.max_active_runs
    and exists (select from backfill_date d where d.backfill_id = b.backfill_id and d.state = 'waiting')
union all
select format('backfill %s has nothing to do and is not over', b.backfill_id) from backfill b
where b.finished_at is null and b.open = 0
    and not exists (select from backfill_date d where d.backfill_id = b.backfill_id and d.state = 'waiting')
union all
select format('backfill %s is over and has a date that waits', b.backfill_id) from backfill b
where b.finished_at is not null
    and exists (select from backfill_date d where d.backfill_id = b.backfill_id and d.state = 'waiting')
union all
select format('%s says that backfill %s is open, and it is %s', d.dag_id, d.open_backfill, b.backfill_id)
from dag d left join backfill b on b.dag_id = d.dag_id and b.finished_at is null
where d.open_backfill is distinct from b.backfill_id
";

/// One task instance, with everything that is kept of it outside of its row.
#[derive(Debug, PartialEq, FromRow)]
struct Picture {
    run_id: i64,
    ordinal: i32,
    instance_id: i64,
    state: TaskState,
    sleep_reason: Option<SleepReason>,
    worker_id: Option<i64>,
    epoch: i32,
    tries: i32,
    tries_allowed: i32,
    lost: i32,
    pending: i32,
    ok: i32,
    failed: i32,
    upstream_failed: i32,
    skipped: i32,
    is_ready: bool,
    is_asleep: bool,
    pool_slots: Option<i32>,
    resumes: bool,
    has_output: bool,
}

const PICTURES: &str = "
select i.run_id, i.ordinal, i.instance_id, i.state, i.sleep_reason, i.worker_id, i.epoch, i.tries, i.tries_allowed,
    i.lost, i.pending, i.ok, i.failed, i.upstream_failed, i.skipped,
    exists (select from ready x where x.instance_id = i.instance_id) as is_ready,
    exists (select from sleeper x where x.instance_id = i.instance_id) as is_asleep,
    (select x.slots from pool_use x where x.instance_id = i.instance_id) as pool_slots,
    exists (select from resume x where x.instance_id = i.instance_id) as resumes,
    exists (select from output x where x.instance_id = i.instance_id) as has_output
from run r join task_instance i on i.run_id = r.run_id where r.dag_id = $1 order by i.run_id, i.ordinal";

/// Nothing that must always hold is broken.
pub(super) async fn recount(store: &Store) {
    let wrong: Vec<String> = sqlx::query_scalar(WRONG)
        .fetch_all(&store.people)
        .await
        .unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The store holds what the model says, no more and no less.
pub(super) async fn compare(store: &Store, world: &World) {
    let seen: Vec<Picture> = sqlx::query_as(PICTURES)
        .bind(world.dag.id.as_str())
        .fetch_all(&store.people)
        .await
        .unwrap();
    let expected: Vec<Picture> = world.places().map(|place| picture(world, place)).collect();
    assert_eq!(seen.len(), expected.len());
    for (seen, expected) in seen.iter().zip(&expected) {
        assert_eq!(
            seen, expected,
            "the store on the left, the model on the right"
        );
    }
    let runs: Vec<(i64, RunState)> =
        sqlx::query_as("select run_id, state from run where dag_id = $1 order by run_id")
            .bind(world.dag.id.as_str())
            .fetch_all(&store.people)
            .await
            .unwrap();
    let expected: Vec<(i64, RunState)> = world
        .runs
        .iter()
        .map(|run| (run.run_id.0, run.state))
        .collect();
    assert_eq!(
        runs, expected,
        "the store on the left, the model on the right"
    );
}

fn picture(world: &World, place: (usize, usize)) -> Picture {
    let (run, ordinal) = place;
    let instance = world.at(place);
    let above = world.runs[run].upstream(&world.dag, ordinal);
    let number = |count: u32| i32::try_from(count).unwrap();
    let is_running = instance.state == TaskState::Running;
    Picture {
        run_id: world.runs[run].run_id.0,
        ordinal: i32::try_from(ordinal).unwrap(),
        instance_id: instance.instance_id.0,
        state: instance.state,
        sleep_reason: instance.sleep.map(|(reason, _)| reason),
        worker_id: instance.holder.map(|WorkerId(holder)| holder),
        epoch: instance.epoch,
        tries: instance.tries,
        tries_allowed: instance.tries_allowed,
        lost: instance.lost,
        pending: number(above.pending),
        ok: number(above.ok),
        failed: number(above.failed),
        upstream_failed: number(above.upstream_failed),
        skipped: number(above.skipped),
        is_ready: instance.state == TaskState::Queued,
        is_asleep: instance.state == TaskState::Sleeping,
        pool_slots: world.slots_of(ordinal).filter(|_| is_running),
        resumes: instance.resumes,
        has_output: instance.has_output,
    }
}

/// What was recorded of every execution, once each: what the model says.
pub(super) async fn compare_history(store: &Store, world: &World) {
    let mut expected: Vec<Recorded> = world
        .places()
        .flat_map(|place| world.at(place).history.clone())
        .collect();
    expected.sort_unstable();
    assert_eq!(history(store, &world.dag.id).await, expected);
}

/// What was recorded of every execution of a DAG, in order.
pub(super) async fn history(store: &Store, dag_id: &DagId) -> Vec<Recorded> {
    let rows: Vec<(i64, i32, i32, i64, Option<crate::model::TryOutcome>)> = sqlx::query_as(
        "select h.instance_id, h.epoch, h.try_number, h.worker_id, h.outcome
         from run r join task_instance i on i.run_id = r.run_id join try h on h.instance_id = i.instance_id
         where r.dag_id = $1 order by h.instance_id, h.epoch",
    )
    .bind(dag_id.as_str())
    .fetch_all(&store.people)
    .await
    .unwrap();
    rows.into_iter()
        .map(
            |(instance_id, epoch, try_number, worker_id, outcome)| Recorded {
                instance_id: InstanceId(instance_id),
                epoch,
                try_number,
                worker_id: WorkerId(worker_id),
                outcome,
            },
        )
        .collect()
}

/// The task instances of a run, by ordinal.
pub(super) async fn instances(store: &Store, run_id: RunId) -> Vec<InstanceId> {
    sqlx::query_scalar("select instance_id from task_instance where run_id = $1 order by ordinal")
        .bind(run_id.0)
        .fetch_all(&store.people)
        .await
        .unwrap()
        .into_iter()
        .map(InstanceId)
        .collect()
}
