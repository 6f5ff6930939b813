-- Reads the counters of waiting task instances of some tasks of runs. Lock: none; the runs are locked already.
select i.instance_id as "instance_id?: InstanceId", i.run_id as "run_id: RunId", i.ordinal, i.state as "state: TaskState",
    i.pending, i.ok, i.failed, i.upstream_failed, i.skipped
from unnest($1::bigint[], $2::integer[]) as w (run_id, ordinal)
cross join lateral (
    select * from task_instance
    where run_id = w.run_id and ordinal = w.ordinal and map_index >= -1 and state = 'waiting' offset 0) i
