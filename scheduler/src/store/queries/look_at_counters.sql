-- Finds task instances of open runs whose counters differ from a recount, and waiting ones whose trigger rule may have decided. Lock: none.
with outcome as (
    select r.run_id, r.version_id, u.ordinal,
        count(*) filter (where u.state in ('waiting', 'queued', 'running', 'sleeping')) as pending,
        count(*) filter (where u.state = 'success') as ok,
        count(*) filter (where u.state in ('failed', 'cancelled')) as failed,
        count(*) filter (where u.state = 'upstream_failed') as upstream_failed,
        count(*) filter (where u.state = 'skipped') as skipped
    from run r join task_instance u on u.run_id = r.run_id
    where r.state in ('queued', 'running') and u.map_index >= -1
    group by r.run_id, u.ordinal
), above as (
    select o.run_id, e.downstream as ordinal, sum(o.pending)::integer as pending, sum(o.ok)::integer as ok,
        sum(o.failed)::integer as failed, sum(o.upstream_failed)::integer as upstream_failed,
        sum(o.skipped)::integer as skipped
    from outcome o join edge e on e.version_id = o.version_id and e.upstream = o.ordinal
    group by o.run_id, e.downstream
), recount as (
    select i.*, r.dag_id, r.version_id, t.task_id, i.state = 'waiting' and r.state = 'running' as may_be_promoted,
        t.trigger_rule = 'always' as runs_always, t.upstream_count,
        coalesce(a.pending, 0) as true_pending, coalesce(a.ok, 0) as true_ok, coalesce(a.failed, 0) as true_failed,
        coalesce(a.upstream_failed, 0) as true_upstream_failed, coalesce(a.skipped, 0) as true_skipped
    from run r join task_instance i on i.run_id = r.run_id and i.map_index >= -1
    join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
    left join above a on a.run_id = i.run_id and a.ordinal = i.ordinal
    where r.state in ('queued', 'running')
)
select instance_id as "instance_id: InstanceId", run_id as "run_id: RunId", dag_id as "dag_id: DagId",
    version_id as "version_id: VersionId", task_id as "task_id: TaskId", ordinal, map_index,
    may_be_promoted as "may_be_promoted!", pending, ok, failed, upstream_failed, skipped,
    true_pending as "true_pending!", true_ok as "true_ok!", true_failed as "true_failed!",
    true_upstream_failed as "true_upstream_failed!", true_skipped as "true_skipped!"
from recount
where (pending, ok, failed, upstream_failed, skipped)
        is distinct from (true_pending, true_ok, true_failed, true_upstream_failed, true_skipped)
    or may_be_promoted and (true_pending = 0 or true_pending < upstream_count or runs_always)
order by run_id, ordinal, map_index
