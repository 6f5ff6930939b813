-- Claims ready rows with gates that were chosen, and parks others. Lock: these rows, locked already, and task instances.
with taken as (
    delete from ready where instance_id = any($2::bigint[]) returning instance_id, pool, slots, gates
), used as (
    insert into pool_use (instance_id, pool, slots)
    select t.instance_id, t.pool, least(t.slots, p.slots)
    from taken t cross join lateral (select slots from pool where pool = t.pool and slots is not null offset 0) p
), entered as (
    insert into gate_use (gate, instance_id) select unnest(gates), instance_id from taken
), held_back as (
    insert into parked (gate, pool, queue, priority, instance_id)
    select p.gate, r.pool, r.queue, r.priority, r.instance_id
    from unnest($3::bigint[], $4::text[]) as p (instance_id, gate)
    cross join lateral (select * from ready where instance_id = p.instance_id offset 0) r
    on conflict (gate, instance_id) do nothing
), marked as (
    update ready set parked = true where instance_id = any($3::bigint[])
), claimed as (
    update task_instance i
    set state = 'running', worker_id = $1, epoch = epoch + 1, started_at = clock_timestamp(),
        tries = tries + case when exists (select from resume s where s.instance_id = i.instance_id offset 0) then 0 else 1 end
    where instance_id = any (array(select instance_id from taken)) and state = 'queued'
    returning instance_id, run_id, ordinal, map_index, epoch, tries, tries_allowed, lost
)
select c.instance_id as "instance_id?: InstanceId", c.run_id as "run_id?: RunId", c.ordinal as "ordinal?", c.map_index as "map_index?",
    case when c.map_index >= 0 then (select m.item from map_item m where m.instance_id = c.instance_id) end as "item?",
    c.epoch as "epoch?", c.tries as "tries?", c.tries_allowed as "tries_allowed?", c.lost as "lost?",
    r.dag_id as "dag_id?: DagId", r.version_id as "version_id?: VersionId", r.logical_date as "logical_date?",
    r.data_interval_start as "data_interval_start?", r.data_interval_end as "data_interval_end?",
    (select p.params from run_params p where p.run_id = c.run_id) as "params?",
    (select s.resume from resume s where s.instance_id = c.instance_id) as "resume?",
    true as "several_lanes!", false as "closed_lanes!", false as "gated!"
from claimed c cross join lateral (select * from run where run_id = c.run_id offset 0) r
