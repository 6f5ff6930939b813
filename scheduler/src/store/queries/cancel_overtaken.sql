-- Cancels queued scheduled runs of DAGs for which a newer one waits. None of their tasks has begun. Lock: these runs and their task instances; the DAGs are locked already, so nobody starts them.
with overtaken as (
    select r.run_id, newest.logical_date
    from unnest($1::text[]) as d (dag_id)
    cross join lateral (
        select n.run_id, n.logical_date from run n
        where n.dag_id = d.dag_id and n.state = 'queued' and n.kind = 'scheduled'
        order by n.run_id desc limit 1) newest
    cross join lateral (
        select o.run_id from run o
        where o.dag_id = d.dag_id and o.state = 'queued' and o.kind = 'scheduled' and o.run_id < newest.run_id
        order by o.run_id for no key update) r
), cancelled as (
    update run r set state = 'cancelled', finished_at = clock_timestamp(),
        reason = 'the run of ' || to_char(o.logical_date at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')
            || 'Z came due before this one could start (overlap = "latest")'
    -- Queued, in words that do not invite the planner to walk through the index of all open runs.
    from overtaken o where r.run_id = o.run_id and r.started_at is null and r.finished_at is null
    returning r.run_id
), ended as (
    update task_instance i set state = 'cancelled', pending = 0, failed = i.failed + i.pending,
        finished_at = clock_timestamp()
    from cancelled c where i.run_id = c.run_id and i.state = 'waiting' and i.map_index >= -1
)
select count(*) as "count!" from cancelled
