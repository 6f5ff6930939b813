-- Counts a run's unfinished and failed task instances from scratch, and opens it again if it was final, with no time limit left. Lock: the run row, locked already; its limit.
with counted as (
    select (count(*) filter (where i.state in ('waiting', 'queued', 'running', 'sleeping')))::integer as unfinished,
        (count(*) filter (where i.state in ('failed', 'cancelled') and not t.allow_failure))::integer as failures
    from task_instance i join run r on r.run_id = i.run_id
    join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
    where i.run_id = $1 and i.map_index >= -1
), unlimited as (
    delete from run_limit
    where run_id = $1 and exists (select from run where run_id = $1 and state in ('success', 'failed', 'cancelled'))
)
update run set unfinished = c.unfinished, failures = c.failures, finished_at = null, reason = null,
    started_at = case when state = 'queued' then started_at else coalesce(started_at, clock_timestamp()) end,
    state = case when state = 'queued' then state else 'running' end
from counted c where run_id = $1 and state in ('queued', 'running', 'success', 'failed', 'cancelled')
