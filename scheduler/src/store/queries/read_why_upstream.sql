-- Reads the states of task instances at some places of a run. Lock: none.
select ordinal, map_index, state as "state: TaskState" from task_instance
where run_id = $1 and ordinal = any($2::integer[]) and map_index >= -1 order by ordinal, map_index
