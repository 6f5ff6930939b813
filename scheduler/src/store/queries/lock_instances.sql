-- Reads the task instances of a run for a clear. Lock: these task instances; the run is locked already.
select instance_id as "instance_id: InstanceId", ordinal, state as "state: TaskState" from task_instance
where run_id = $1 order by instance_id for no key update
