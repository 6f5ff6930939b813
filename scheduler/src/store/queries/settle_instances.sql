-- Writes how executions ended, under their fence, with history and outputs, and moves the counters of the tasks downstream and of the runs. Lock: the runs in id order, then task instances.
-- No instance of a batch may be downstream of another one: one statement does not update a row twice.
with locked as materialized (
    select run_id from run where run_id = any($1::bigint[]) order by run_id for no key update
), settled as (
    update task_instance i
    set state = e.state, worker_id = null, sleep_reason = e.sleep_reason, tries = e.tries, lost = i.lost + e.lost,
        queued_at = case when e.state = 'queued' then clock_timestamp() else i.queued_at end,
        finished_at = case when e.state in ('success', 'failed', 'skipped')
            then clock_timestamp() - e.ended_ago * interval '1 second' end
    from unnest($2::bigint[], $3::integer[], $4::bigint[], $5::task_state[], $6::sleep_reason[], $7::integer[],
        $8::integer[], $9::try_outcome[], $10::text[], $11::text[], $12::text[], $13::integer[], $14::jsonb[],
        $15::integer[], $16::boolean[], $17::boolean[], $18::double precision[], $19::double precision[],
        $20::bigint[])
        as e (instance_id, epoch, worker_id, state, sleep_reason, tries, lost, outcome, reason, hint, failure_class,
            exit_code, output, try_number, is_recorded, fails_run, began_ago, ended_ago, version_id)
    -- Nothing happens before the runs are locked.
    where (select count(*) from locked) > 0
        and i.instance_id = e.instance_id and i.epoch = e.epoch and i.worker_id = e.worker_id and i.state = 'running'
    returning i.instance_id, i.run_id, i.ordinal, i.started_at, i.finished_at, i.epoch, i.state, e.worker_id, e.outcome,
        e.reason, e.hint, e.failure_class, e.exit_code, e.output, e.try_number, e.is_recorded, e.fails_run, e.began_ago,
        e.ended_ago, e.version_id
), history as (
    insert into try (instance_id, epoch, try_number, worker_id, started_at, finished_at, outcome, reason, hint,
        failure_class, exit_code)
    select instance_id, epoch, try_number, worker_id,
        coalesce(clock_timestamp() - began_ago * interval '1 second', started_at),
        coalesce(finished_at, clock_timestamp() - ended_ago * interval '1 second'),
        outcome, reason, hint, failure_class, exit_code
    from settled where is_recorded
), outputs as (
    insert into output (instance_id, output) select instance_id, output from settled where output is not null
    on conflict (instance_id) do update set output = excluded.output
), freed as (
    delete from pool_use where instance_id = any (array(select instance_id from settled))
), passed as (
    delete from gate_use where instance_id = any (array(select instance_id from settled)) returning gate
), delta as (
    select s.run_id, e.downstream as ordinal, count(*)::integer as total,
        (count(*) filter (where s.state = 'success'))::integer as ok,
        (count(*) filter (where s.state = 'failed'))::integer as failed,
        (count(*) filter (where s.state = 'skipped'))::integer as skipped
    from settled s cross join lateral (
        select downstream from edge where version_id = s.version_id and upstream = s.ordinal offset 0) e
    where s.finished_at is not null
    group by s.run_id, e.downstream
), counted as (
    update task_instance i
    set pending = i.pending - d.total, ok = i.ok + d.ok, failed = i.failed + d.failed, skipped = i.skipped + d.skipped
    from delta d
    where i.run_id = d.run_id and i.ordinal = d.ordinal
    returning i.run_id, i.ordinal, i.state, i.pending, i.ok, i.failed, i.upstream_failed, i.skipped
), done as (
    select run_id, count(*)::integer as finished, (count(*) filter (where fails_run))::integer as failures
    from settled where finished_at is not null group by run_id
), counted_down as (
    update run r
    set unfinished = r.unfinished - d.finished, failures = r.failures + d.failures,
        state = case when r.unfinished > d.finished then r.state
            when r.failures + d.failures > 0 then 'failed' else 'success' end,
        finished_at = case when r.unfinished = d.finished then clock_timestamp() end
    from done d
    where r.run_id = d.run_id and r.state = 'running'
    returning r.run_id, r.dag_id, r.state
)
select instance_id as "instance_id: InstanceId", null::bigint as "run_id: RunId", null::integer as ordinal,
    null::task_state as "state: TaskState", null::integer as pending, null::integer as ok, null::integer as failed,
    null::integer as upstream_failed, null::integer as skipped, null::text as "dag_id: DagId",
    null::run_state as "run_state: RunState", null::text as gate
from settled
union all
select null, run_id, ordinal, state, pending, ok, failed, upstream_failed, skipped, null, null, null from counted
union all
select null, run_id, null, null, null, null, null, null, null, dag_id, state, null
from counted_down where state <> 'running'
union all
select null, null, null, null, null, null, null, null, null, null, null, gate from (select distinct gate from passed) p
