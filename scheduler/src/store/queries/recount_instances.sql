-- Counts what became of the upstream tasks of every task instance of a run from scratch, and mends counters that differ. Lock: task instances that differ; the run is locked already.
with truth as (
    select d.instance_id,
        (count(u.instance_id) filter (where u.state in ('waiting', 'queued', 'running', 'sleeping')))::integer as pending,
        (count(u.instance_id) filter (where u.state = 'success'))::integer as ok,
        (count(u.instance_id) filter (where u.state in ('failed', 'cancelled')))::integer as failed,
        (count(u.instance_id) filter (where u.state = 'upstream_failed'))::integer as upstream_failed,
        (count(u.instance_id) filter (where u.state = 'skipped'))::integer as skipped
    from run r join task_instance d on d.run_id = r.run_id and d.map_index >= -1
    left join edge e on e.version_id = r.version_id and e.downstream = d.ordinal
    left join task_instance u on u.run_id = r.run_id and u.ordinal = e.upstream and u.map_index >= -1
    where r.run_id = $1
    group by d.instance_id
)
update task_instance i
set pending = t.pending, ok = t.ok, failed = t.failed, upstream_failed = t.upstream_failed, skipped = t.skipped
from truth t
where i.instance_id = t.instance_id
    and (i.pending, i.ok, i.failed, i.upstream_failed, i.skipped)
        is distinct from (t.pending, t.ok, t.failed, t.upstream_failed, t.skipped)
