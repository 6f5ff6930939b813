-- Reads the counters of a run's waiting task instances. Lock: none; the run is locked already.
select i.instance_id as "instance_id?: InstanceId", i.run_id as "run_id: RunId", i.ordinal, i.state as "state: TaskState",
    i.pending, i.ok, i.failed, i.upstream_failed, i.skipped
from task_instance i where i.run_id = $1 and i.state = 'waiting' and i.map_index >= -1
