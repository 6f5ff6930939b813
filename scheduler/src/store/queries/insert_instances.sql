-- Adds the task instances of tasks that a run gets by its move to another version. Lock: none but the new rows; the run is locked already.
insert into task_instance (run_id, ordinal, tries_allowed, pending, state)
select $1, t.ordinal, t.retries + 1, t.upstream_count, 'waiting'
from task t where t.version_id = $2 and t.ordinal = any($3::integer[])
