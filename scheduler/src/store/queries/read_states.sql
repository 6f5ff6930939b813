-- Reads the states of a run's task instances for a clear. Lock: none; under the run's lock a final state stays what it is.
select instance_id as "instance_id: InstanceId", ordinal, state as "state: TaskState" from task_instance
where run_id = $1 and map_index >= -1 order by ordinal, map_index
