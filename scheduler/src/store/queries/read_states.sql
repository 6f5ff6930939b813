-- Reads the states of a run's task instances for a clear or a mark, without those that its version has no task for. Lock: none; under the run's lock a final state stays what it is.
select instance_id as "instance_id: InstanceId", ordinal, map_index, tries, state as "state: TaskState" from task_instance
where run_id = $1 and ordinal >= 0 and map_index >= -1 order by ordinal, map_index
