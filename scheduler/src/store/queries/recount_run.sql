-- Counts an open run's unfinished and failed task instances from scratch, and mends what differs. Lock: the run row, locked already.
with counted as (
    select (count(*) filter (where i.state in ('waiting', 'queued', 'running', 'sleeping')))::integer as unfinished,
        (count(*) filter (where i.state in ('failed', 'cancelled') and not t.allow_failure))::integer as failures
    from run r join task_instance i on i.run_id = r.run_id
    join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
    where r.run_id = $1 and i.map_index >= -1
)
update run r set unfinished = c.unfinished, failures = c.failures from counted c
where r.run_id = $1 and r.state in ('queued', 'running')
    and (r.unfinished, r.failures) is distinct from (c.unfinished, c.failures)
