-- Moves the counters of every task downstream of final ones and returns them as they are now. Lock: these task instances; their runs are locked already.
with delta as (
    select f.run_id, e.downstream as ordinal, count(*)::integer as total,
        (count(*) filter (where f.state = 'success'))::integer as ok,
        (count(*) filter (where f.state in ('failed', 'cancelled')))::integer as failed,
        (count(*) filter (where f.state = 'upstream_failed'))::integer as upstream_failed,
        (count(*) filter (where f.state = 'skipped'))::integer as skipped
    from unnest($1::bigint[], $2::bigint[], $3::integer[], $4::task_state[]) as f (run_id, version_id, ordinal, state)
    cross join lateral (
        select downstream from edge where version_id = f.version_id and upstream = f.ordinal offset 0) e
    group by f.run_id, e.downstream
)
update task_instance i
set pending = i.pending - d.total, ok = i.ok + d.ok, failed = i.failed + d.failed,
    upstream_failed = i.upstream_failed + d.upstream_failed, skipped = i.skipped + d.skipped
from delta d
where i.run_id = d.run_id and i.ordinal = d.ordinal and i.map_index >= -1
returning i.instance_id as "instance_id?: InstanceId", i.run_id as "run_id: RunId", i.ordinal, i.state as "state: TaskState", i.pending, i.ok, i.failed,
    i.upstream_failed, i.skipped
