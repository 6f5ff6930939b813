-- Finds slots of pools and places behind gates that are held by what does not run, or not held by what does. Lock: none.
with running as (
    select i.instance_id, i.gates, t.pool, t.slots
    from run r join task_instance i on i.run_id = r.run_id
    join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
    where r.state in ('queued', 'running') and i.state = 'running'
), found as (
    select 'pool_use_extra' as kind, u.instance_id, format('%s slots of pool %s', u.slots, u.pool) as stored,
        coalesce('none: it is ' || i.state, 'none: there is no such task instance') as expected
    from pool_use u left join task_instance i on i.instance_id = u.instance_id
    where i.state is distinct from 'running'
    union all
    select 'pool_use_missing', n.instance_id, 'no slots', format('%s slots of pool %s', least(n.slots, p.slots), p.pool)
    from running n join pool p on p.pool = n.pool and p.slots is not null
    where not exists (select from pool_use u where u.instance_id = n.instance_id)
    union all
    select 'gate_use_extra', u.instance_id, format('a place behind gate %s', u.gate),
        case when i.state is null then 'none: there is no such task instance'
            when i.state <> 'running' then format('none: it is %s', i.state)
            else 'none: it passes no such gate' end
    from gate_use u left join task_instance i on i.instance_id = u.instance_id
    where i.state is distinct from 'running' or not u.gate = any(coalesce(i.gates, '{}'))
    union all
    select 'gate_use_missing', n.instance_id, 'no place', format('a place behind gate %s', g.gate)
    from running n cross join lateral unnest(n.gates) as g (gate)
    where not exists (select from gate_use u where u.gate = g.gate and u.instance_id = n.instance_id)
)
select f.kind as "kind!: FindingKind", r.dag_id as "dag_id?: DagId", i.run_id as "run_id?: RunId",
    t.task_id as "task_id?: TaskId", i.map_index as "map_index?", f.instance_id as "instance_id?: InstanceId",
    f.stored as "stored!", f.expected as "expected!"
from found f left join task_instance i on i.instance_id = f.instance_id
left join run r on r.run_id = i.run_id
left join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
order by i.run_id, f.instance_id, f.kind, f.stored
