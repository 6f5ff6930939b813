-- Claims queued task instances without gates for a live worker, a fair share from every pool that has room; one row at least, which says what else there is. Lock: ready rows and task instances with SKIP LOCKED, the worker row FOR KEY SHARE; pools with a limit are locked already.
-- `ready` is often empty when it is analysed. `offset 0` and `= any (array …)` keep the planner from walking through all
-- of it, or turning a join round, when it is not.
with claimer as (
    select worker_id from worker where worker_id = $1 and ended_at is null for key share skip locked
), stocked as (
    select p.pool, q.queue, p.slots as size, p.slots is null or p.pool = any($4::text[]) as is_open
    from claimer cross join pool p cross join unnest($2::text[]) as q (queue)
    where exists (select from ready r where r.pool = p.pool and r.queue = q.queue and r.gates = '{}' offset 0)
), lane as (
    -- One whose first task does not fit would take a share of the slots and leave it unused.
    select s.pool, s.queue, s.size, s.free, row_number() over (order by random()) as place, count(*) over () as lanes
    from (
        select s.*, s.size - coalesce((select sum(u.slots) from pool_use u where u.pool = s.pool), 0) as free
        from stocked s where s.is_open) s
    cross join lateral (
        select r.slots from ready r
        where r.pool = s.pool and r.queue = s.queue and r.gates = '{}'
        order by r.priority desc, r.instance_id limit 1) first
    where s.free is null or s.free >= least(first.slots, s.size)
), locked as (
    select lane.free, l.instance_id,
        sum(least(l.slots, lane.size)) over (partition by lane.pool order by l.priority desc, l.instance_id) as used
    from lane cross join lateral (
        select r.instance_id, r.priority, r.slots
        from ready r join task_instance i on i.instance_id = r.instance_id
        where r.pool = lane.pool and r.queue = lane.queue and r.gates = '{}' and (lane.free is null or lane.free > 0)
        order by r.priority desc, r.instance_id
        limit $3::bigint / lane.lanes + case when lane.place <= $3::bigint % lane.lanes then 1 else 0 end
        for update of r skip locked for no key update of i skip locked) l
), taken as (
    delete from ready
    where instance_id = any (array(select instance_id from locked where free is null or used <= free))
    returning instance_id, pool, slots
), used as (
    insert into pool_use (instance_id, pool, slots)
    select t.instance_id, t.pool, least(t.slots, p.slots)
    from taken t cross join lateral (select slots from pool where pool = t.pool and slots is not null offset 0) p
), claimed as (
    update task_instance i
    set state = 'running', worker_id = $1, epoch = epoch + 1, started_at = clock_timestamp(),
        tries = tries + case when exists (select from resume s where s.instance_id = i.instance_id offset 0) then 0 else 1 end
    where instance_id = any (array(select instance_id from taken)) and state = 'queued'
    returning instance_id, run_id, ordinal, map_index, epoch, tries, tries_allowed, lost
), known as (
    select c.*, r.dag_id, r.version_id, r.logical_date, r.data_interval_start, r.data_interval_end,
        (select p.params from run_params p where p.run_id = c.run_id) as params,
        (select s.resume from resume s where s.instance_id = c.instance_id) as resume
    from claimed c cross join lateral (select * from run where run_id = c.run_id offset 0) r
)
select k.instance_id as "instance_id?: InstanceId", k.run_id as "run_id?: RunId", k.ordinal as "ordinal?", k.map_index as "map_index?",
    case when k.map_index >= 0 then (select m.item from map_item m where m.instance_id = k.instance_id) end as "item?",
    k.epoch as "epoch?", k.tries as "tries?", k.tries_allowed as "tries_allowed?", k.lost as "lost?",
    k.dag_id as "dag_id?: DagId", k.version_id as "version_id?: VersionId", k.logical_date as "logical_date?",
    k.data_interval_start as "data_interval_start?", k.data_interval_end as "data_interval_end?",
    k.params as "params?", k.resume as "resume?",
    (select count(*) from lane) > 1 as "several_lanes!",
    exists (select from stocked where not is_open) as "closed_lanes!",
    exists (select from ready r where r.queue = any($2::text[]) and r.gates <> '{}' and not r.parked) as "gated!"
from (values (1)) as always (n) left join known k on true
