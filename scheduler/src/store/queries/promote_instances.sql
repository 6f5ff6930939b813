-- Gives waiting task instances the state their trigger rule decided on, and makes the queued ones claimable. Lock: these task instances; their runs are locked already.
with verdict as (
    select * from unnest($1::bigint[], $2::bigint[], $3::integer[], $4::task_state[])
        as v (run_id, version_id, ordinal, state)
), promoted as (
    update task_instance i
    set state = v.state,
        queued_at = case when v.state = 'queued' then clock_timestamp() end,
        finished_at = case when v.state in ('skipped', 'upstream_failed') then clock_timestamp() end
    from verdict v
    where i.run_id = v.run_id and i.ordinal = v.ordinal and i.state = 'waiting'
    returning i.instance_id, i.run_id, v.version_id, i.ordinal, i.state
)
insert into ready (instance_id, run_id, pool, queue, priority, slots)
select p.instance_id, p.run_id, t.pool, t.queue, t.priority, t.slots
from promoted p
cross join lateral (select * from task where version_id = p.version_id and ordinal = p.ordinal offset 0) t
where p.state = 'queued'
