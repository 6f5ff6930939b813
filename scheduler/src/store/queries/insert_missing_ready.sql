-- Puts in what may be claimed or sleeps and is missing, for a rebuild; a sleeper whose time is lost wakes at once. Lock: none but the new rows; the runs are locked already.
with open as (
    select i.instance_id, i.run_id, i.ordinal, i.state, coalesce(i.gates, '{}') as gates, r.version_id
    from run r join task_instance i on i.run_id = r.run_id and i.state in ('queued', 'sleeping')
    where r.state = 'running'
), made_ready as (
    insert into ready (instance_id, run_id, pool, queue, priority, slots, gates)
    select o.instance_id, o.run_id, t.pool, t.queue, t.priority, t.slots, o.gates
    from open o join task t on t.version_id = o.version_id and t.ordinal = o.ordinal
    where o.state = 'queued' on conflict (instance_id) do nothing
    returning instance_id
), asleep as (
    insert into sleeper (instance_id, run_id, wake_at, reason)
    select o.instance_id, o.run_id, clock_timestamp(), 'woken by a rebuild' from open o where o.state = 'sleeping'
    on conflict (instance_id) do nothing
    returning instance_id
)
select (select count(*) from made_ready) + (select count(*) from asleep) as "count!"
