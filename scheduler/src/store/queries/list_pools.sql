-- Lists pools, or one, with what they hold and what waits for them. Lock: none.
with running as (
    select t.pool, count(*) as tasks, sum(t.slots)::bigint as slots
    from run r join task_instance i on i.run_id = r.run_id and i.state = 'running'
    join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
    where r.state in ('queued', 'running')
    group by t.pool
), used as (
    select pool, sum(slots)::bigint as slots from pool_use group by pool
), waiting as (
    select pool, count(*) as tasks from ready where not parked group by pool
), named as (
    select t.pool, count(*) as tasks, array_agg(distinct d.dag_id order by d.dag_id) as dags
    from dag d join task t on t.version_id = d.current_version
    where d.present
    group by t.pool
)
select p.pool as "pool: PoolName", p.slots, p.description,
    coalesce(case when p.slots is null then running.slots else used.slots end, 0) as "used!",
    coalesce(running.tasks, 0) as "running!", coalesce(waiting.tasks, 0) as "ready!",
    coalesce(named.tasks, 0) as "tasks!", coalesce(named.dags, '{}') as "dags!: Vec<DagId>"
from pool p
left join running on running.pool = p.pool
left join used on used.pool = p.pool
left join waiting on waiting.pool = p.pool
left join named on named.pool = p.pool
where ($1::text is null or p.pool = $1)
    and (not p.deleted or running.tasks > 0 or waiting.tasks > 0 or named.tasks > 0)
order by p.pool
