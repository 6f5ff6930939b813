-- Takes a run's task instances out of what may be claimed and what wakes. Lock: its ready and sleeper rows, before any task instance, as a claim does.
with unready as (
    delete from ready r using task_instance i where i.run_id = $1 and r.instance_id = i.instance_id
)
delete from sleeper s using task_instance i where i.run_id = $1 and s.instance_id = i.instance_id
