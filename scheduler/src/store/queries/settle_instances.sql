-- Writes how executions ended, under their fence, with history and outputs; moves the counters of the tasks downstream and of the runs; and promotes what runs because every upstream task succeeded, straight into a free slot if it would be claimed first anyway. Lock: the runs in id order, then task instances; the worker row FOR KEY SHARE.
-- No instance of a batch may be downstream of another one: one statement does not update a row twice.
with locked as materialized (
    select run_id from run where run_id = any($1::bigint[]) order by run_id for no key update
), claimer as materialized (
    select worker_id from worker where worker_id = $21 and $22 > 0 and ended_at is null for key share skip locked
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
    select s.run_id, s.version_id, e.downstream as ordinal, count(*)::integer as total,
        (count(*) filter (where s.state = 'success'))::integer as ok,
        (count(*) filter (where s.state = 'failed'))::integer as failed,
        (count(*) filter (where s.state = 'skipped'))::integer as skipped
    from settled s cross join lateral (
        select downstream from edge where version_id = s.version_id and upstream = s.ordinal offset 0) e
    where s.finished_at is not null
    group by s.run_id, s.version_id, e.downstream
), below as materialized (
    select d.run_id, d.ordinal, d.total, d.ok, d.failed, d.skipped, t.pool, t.queue, t.priority, t.slots,
        t.runs_if_all_ok, t.upstream_count,
        row_number() over (order by t.runs_if_all_ok desc, t.priority desc, d.run_id, d.ordinal) as place
    from delta d cross join lateral (
        select * from task where version_id = d.version_id and ordinal = d.ordinal offset 0) t
), lane as materialized (
    -- One look per pool and queue: the head of the index is full of what was claimed a moment ago.
    select l.pool, l.queue, first.priority, first.instance_id,
        -- What is still to be decided by its rule may come before what is ripe.
        l.queue = any($23::text[]) and exists (select from claimer)
            and not exists (select from below where not runs_if_all_ok)
            and exists (select from pool p where p.pool = l.pool and p.slots is null offset 0) as is_open
    from (select distinct pool, queue from below where runs_if_all_ok) l
    left join lateral (
        select r.priority, r.instance_id from ready r
        where r.pool = l.pool and r.queue = l.queue and r.gates = '{}'
        order by r.priority desc, r.instance_id limit 1) first on true
), counted as (
    update task_instance i
    set pending = i.pending - d.total, ok = i.ok + d.ok, failed = i.failed + d.failed, skipped = i.skipped + d.skipped,
        (state, queued_at, started_at, worker_id, epoch, tries) = (
            select case when due.starts then 'running' when due.runs then 'queued' else i.state end,
                case when due.runs then statement_timestamp() else i.queued_at end,
                case when due.starts then clock_timestamp() else i.started_at end,
                case when due.starts then $21::bigint else i.worker_id end,
                case when due.starts then i.epoch + 1 else i.epoch end,
                case when due.starts then i.tries + 1 else i.tries end
            from (
                select ripe.runs, ripe.runs and d.is_open and d.place <= $22 and (d.first_instance is null
                    or d.priority > d.first_priority
                    or d.priority = d.first_priority and i.instance_id < d.first_instance) as starts
                from (select d.runs_if_all_ok and i.state = 'waiting' and i.pending = d.total
                    and i.ok + d.ok = d.upstream_count as runs) ripe) due)
    from (
        select b.*, l.is_open, l.priority as first_priority, l.instance_id as first_instance
        from below b left join lane l on l.pool = b.pool and l.queue = b.queue) d
    -- Below that are items that a clear has done away with.
    where i.run_id = d.run_id and i.ordinal = d.ordinal and i.map_index >= -1
    returning i.instance_id, i.run_id, i.ordinal, i.state, i.pending, i.ok, i.failed, i.upstream_failed, i.skipped,
        -- One that was queued or running before has another time there.
        d.runs_if_all_ok and i.pending = 0 and i.queued_at is not distinct from statement_timestamp() as is_promoted,
        i.epoch, i.tries, i.tries_allowed, i.lost, d.pool, d.queue, d.priority, d.slots
), made_ready as (
    insert into ready (instance_id, run_id, pool, queue, priority, slots)
    select instance_id, run_id, pool, queue, priority, slots from counted where is_promoted and state = 'queued'
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
    -- Its state would invite the planner to walk through the index of all open runs.
    where r.run_id = d.run_id and r.finished_at is null
    returning r.run_id, r.dag_id, r.state
)
select 'settled' as "what!", instance_id as "instance_id: InstanceId", null::bigint as "run_id: RunId",
    null::integer as ordinal, null::task_state as "state: TaskState", null::integer as pending, null::integer as ok,
    null::integer as failed, null::integer as upstream_failed, null::integer as skipped, null::integer as epoch,
    null::integer as tries, null::integer as tries_allowed, null::integer as lost, null::bigint as "version_id: VersionId",
    null::text as "dag_id: DagId", null::run_state as "run_state: RunState", null::timestamptz as logical_date,
    null::timestamptz as data_interval_start, null::timestamptz as data_interval_end, null::jsonb as params,
    null::text as gate
from settled
union all
select case when is_promoted then 'promoted' else 'counted' end, instance_id, run_id, ordinal, state, pending, ok, failed,
    upstream_failed, skipped, null, null, null, null, null, null, null, null, null, null, null, null
from counted where not is_promoted or state = 'queued'
union all
select 'started', c.instance_id, c.run_id, c.ordinal, null, null, null, null, null, null, c.epoch, c.tries, c.tries_allowed, c.lost,
    r.version_id, r.dag_id, null, r.logical_date, r.data_interval_start, r.data_interval_end,
    (select p.params from run_params p where p.run_id = c.run_id), null
from counted c cross join lateral (select * from run where run_id = c.run_id offset 0) r
where c.is_promoted and c.state = 'running'
union all
select 'closed', null, run_id, null, null, null, null, null, null, null, null, null, null, null, null, dag_id, state, null, null,
    null, null, null
from counted_down where state <> 'running'
union all
select 'left', null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
    null, gate
from (select distinct gate from passed) p
