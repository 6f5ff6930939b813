-- Subtracts final task instances from their runs and closes those that reach zero. Lock: the run rows, locked already in id order.
update run r
set unfinished = r.unfinished - d.finished, failures = r.failures + d.failures,
    state = case when r.unfinished > d.finished then r.state
        when r.failures + d.failures > 0 then 'failed' else 'success' end,
    finished_at = case when r.unfinished = d.finished then clock_timestamp() end
from unnest($1::bigint[], $2::integer[], $3::integer[]) as d (run_id, finished, failures)
-- Its state would invite the planner to walk through the index of all open runs.
where r.run_id = d.run_id and r.finished_at is null
returning r.run_id as "run_id: RunId", r.dag_id as "dag_id: DagId", r.state as "state: RunState"
