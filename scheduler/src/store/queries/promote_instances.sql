-- Gives waiting task instances the state their trigger rule decided on, and makes the queued ones claimable. Lock: these task instances; their runs are locked already.
with promoted as (
    update task_instance i
    set state = v.state, gates = case when i.map_index >= 0 then i.gates else nullif(v.gates, '{}') end,
        queued_at = case when v.state = 'queued' then clock_timestamp() end,
        finished_at = case when v.state in ('skipped', 'upstream_failed') then clock_timestamp() end
    from (
        select v.run_id, v.ordinal, v.state, v.pool, v.queue, v.priority, v.slots, v.queue_timeout,
            array_remove(array[v.run_gate, v.key_gate], null) as gates
        from unnest($1::bigint[], $2::integer[], $3::task_state[], $4::text[], $5::text[], $6::integer[], $7::integer[],
            $8::text[], $9::text[], $10::double precision[])
            as v (run_id, ordinal, state, pool, queue, priority, slots, run_gate, key_gate, queue_timeout)) v
    where i.run_id = v.run_id and i.ordinal = v.ordinal and i.state = 'waiting' and i.map_index >= -1
    returning i.instance_id, i.run_id, i.state, v.pool, v.queue, v.priority, v.slots, i.gates,
        clock_timestamp() + v.queue_timeout * interval '1 second' as expires_at
)
insert into ready (instance_id, run_id, pool, queue, priority, slots, gates, expires_at)
select instance_id, run_id, pool, queue, priority, slots, coalesce(gates, '{}'), expires_at from promoted where state = 'queued'
