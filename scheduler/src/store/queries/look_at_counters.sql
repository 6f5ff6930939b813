-- Finds task instances of open runs whose counters differ from a recount, and waiting ones whose trigger rule may have decided. Lock: none.
with recount as (
    select d.instance_id,
        (count(u.instance_id) filter (where u.state in ('waiting', 'queued', 'running', 'sleeping')))::integer as pending,
        (count(u.instance_id) filter (where u.state = 'success'))::integer as ok,
        (count(u.instance_id) filter (where u.state in ('failed', 'cancelled')))::integer as failed,
        (count(u.instance_id) filter (where u.state = 'upstream_failed'))::integer as upstream_failed,
        (count(u.instance_id) filter (where u.state = 'skipped'))::integer as skipped
    from run r join task_instance d on d.run_id = r.run_id
    left join edge e on e.version_id = r.version_id and e.downstream = d.ordinal
    left join task_instance u on u.run_id = r.run_id and u.ordinal = e.upstream
    where r.state in ('queued', 'running')
    group by d.instance_id
)
select i.instance_id as "instance_id: InstanceId", i.run_id as "run_id: RunId", r.dag_id as "dag_id: DagId",
    r.version_id as "version_id: VersionId", t.task_id as "task_id: TaskId", i.ordinal, i.map_index,
    i.state = 'waiting' and r.state = 'running' as "may_be_promoted!",
    i.pending, i.ok, i.failed, i.upstream_failed, i.skipped,
    c.pending as "true_pending!", c.ok as "true_ok!", c.failed as "true_failed!",
    c.upstream_failed as "true_upstream_failed!", c.skipped as "true_skipped!"
from recount c join task_instance i on i.instance_id = c.instance_id join run r on r.run_id = i.run_id
join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
where (i.pending, i.ok, i.failed, i.upstream_failed, i.skipped)
        is distinct from (c.pending, c.ok, c.failed, c.upstream_failed, c.skipped)
    or i.state = 'waiting' and r.state = 'running'
        and (c.pending = 0 or c.pending < t.upstream_count or t.trigger_rule = 'always')
order by i.run_id, i.ordinal, i.map_index
