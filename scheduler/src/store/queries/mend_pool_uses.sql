-- Takes slots of pools back from those of a run's task instances $2 that do not run, and counts those that run without. Lock: the rows deleted; the run is locked already.
with instance as (
    select i.instance_id, i.state = 'running' as runs, t.pool, t.slots
    from run r join task_instance i on i.run_id = r.run_id and i.instance_id = any($2::bigint[])
    join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
    where r.run_id = $1
), removed as (
    delete from pool_use u using instance n where u.instance_id = n.instance_id and not n.runs
    returning u.instance_id
), added as (
    insert into pool_use (instance_id, pool, slots)
    select n.instance_id, p.pool, least(n.slots, p.slots)
    from instance n join pool p on p.pool = n.pool and p.slots is not null
    where n.runs and not exists (select from pool_use u where u.instance_id = n.instance_id)
    on conflict (instance_id) do nothing
    returning instance_id
)
select (select count(*) from removed) + (select count(*) from added) as "count!"
