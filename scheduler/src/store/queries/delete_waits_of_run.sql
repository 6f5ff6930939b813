-- Takes a run's task instances out of what may be claimed and what wakes. Lock: its ready and sleeper rows, before any task instance, as a claim does.
with instances as materialized (
    select instance_id from task_instance where run_id = $1
), unready as (
    delete from ready where instance_id = any (array(select instance_id from instances))
)
delete from sleeper where instance_id = any (array(select instance_id from instances))
