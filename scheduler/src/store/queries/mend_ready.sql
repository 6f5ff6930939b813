-- Makes ready rows of a run what its task instances $2 say: wrong ones among $3, and missing ones. Lock: the run and the ready rows $3 are locked already.
-- What is missing is missing in the statement's snapshot: under the run's lock nobody else puts it in. Trying to insert what
-- stands there would wait for a claim that takes it, and then make it claimable a second time.
with instance as (
    select i.instance_id, i.run_id, t.pool, t.queue, t.priority, t.slots, coalesce(i.gates, '{}') as gates,
        i.queued_at + t.queue_timeout * interval '1 second' as expires_at,
        i.state = 'queued' and r.state = 'running' as is_claimable
    from run r join task_instance i on i.run_id = r.run_id and i.instance_id = any($2::bigint[])
    join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
    where r.run_id = $1
), taken as (
    select n.* from instance n join unnest($3::bigint[]) as l (instance_id) on l.instance_id = n.instance_id
), removed as (
    delete from ready y using taken n where y.instance_id = n.instance_id and not n.is_claimable
    returning y.instance_id
), corrected as (
    update ready y set run_id = n.run_id, pool = n.pool, queue = n.queue, priority = n.priority, slots = n.slots, gates = n.gates
    from taken n
    where y.instance_id = n.instance_id and n.is_claimable
        and (y.run_id, y.pool, y.queue, y.priority, y.slots, y.gates)
            is distinct from (n.run_id, n.pool, n.queue, n.priority, n.slots, n.gates)
    returning y.instance_id
), added as (
    insert into ready (instance_id, run_id, pool, queue, priority, slots, gates, expires_at)
    select n.instance_id, n.run_id, n.pool, n.queue, n.priority, n.slots, n.gates, n.expires_at from instance n
    where n.is_claimable and not exists (select from ready y where y.instance_id = n.instance_id)
    on conflict (instance_id) do nothing
    returning instance_id
)
select (select count(*) from removed) + (select count(*) from corrected) as "changed!", (select count(*) from added) as "added!"
