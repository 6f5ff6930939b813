-- Takes places behind gates back from those of a run's task instances $2 that do not run or pass no such gate, and counts those that run without. Lock: the rows deleted; the run and the gates are locked already.
with instance as (
    select i.instance_id, i.state = 'running' as runs, coalesce(i.gates, '{}') as gates
    from task_instance i where i.run_id = $1 and i.instance_id = any($2::bigint[])
), removed as (
    delete from gate_use u using instance n
    where u.instance_id = n.instance_id and not (n.runs and u.gate = any(n.gates))
    returning u.instance_id
), added as (
    insert into gate_use (gate, instance_id)
    select g.gate, n.instance_id from instance n cross join lateral unnest(n.gates) as g (gate)
    where n.runs and not exists (select from gate_use u where u.gate = g.gate and u.instance_id = n.instance_id)
    on conflict (gate, instance_id) do nothing
    returning instance_id
)
select (select count(*) from removed) + (select count(*) from added) as "count!"
