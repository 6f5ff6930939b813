-- Finds open runs whose counts differ from a recount, running ones that nothing will ever close, and queued ones that may start. Lock: none.
with recount as (
    select r.run_id,
        (count(*) filter (where i.state in ('waiting', 'queued', 'running', 'sleeping')))::integer as unfinished,
        (count(*) filter (where i.state in ('failed', 'cancelled') and not t.allow_failure))::integer as failures
    from run r left join task_instance i on i.run_id = r.run_id and i.map_index >= -1
    left join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
    where r.state in ('queued', 'running')
    group by r.run_id
), may_start as (
    select q.run_id, d.max_active_runs, a.running
    from dag d
    cross join lateral (select count(*) as running from run r where r.dag_id = d.dag_id and r.state = 'running'
        and r.backfill_id is null) a
    cross join lateral (
        select r.run_id from run r where r.dag_id = d.dag_id and r.state = 'queued'
        order by r.run_id limit greatest(d.max_active_runs - a.running, 0)) q
    where not d.paused
), found as (
    select 'run_counts' as kind, r.run_id,
        format('%s unfinished, %s failures', r.unfinished, r.failures) as stored,
        format('%s unfinished, %s failures', c.unfinished, c.failures) as expected
    from recount c join run r on r.run_id = c.run_id
    where (r.unfinished, r.failures) is distinct from (c.unfinished, c.failures)
    union all
    select 'run_not_closed', r.run_id, 'running',
        case when c.failures > 0 then 'failed' else 'success' end || ': nothing is unfinished'
    from recount c join run r on r.run_id = c.run_id
    where r.state = 'running' and c.unfinished = 0
    union all
    select 'run_not_started', run_id, 'queued',
        format('running: %s of %s runs are', running, max_active_runs)
    from may_start
)
select f.kind as "kind!: FindingKind", r.dag_id as "dag_id?: DagId", f.run_id as "run_id?: RunId",
    null::text as "task_id?: TaskId", null::integer as "map_index?", null::bigint as "instance_id?: InstanceId",
    f.stored as "stored!", f.expected as "expected!"
from found f join run r on r.run_id = f.run_id
order by f.run_id, f.kind
