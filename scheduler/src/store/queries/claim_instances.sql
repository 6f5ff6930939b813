-- Claims queued task instances for a live worker, a fair share from every pool that has room. Lock: ready rows and task instances with SKIP LOCKED, the worker row FOR KEY SHARE; pools with a limit are locked already.
with claimer as (
    select worker_id from worker where worker_id = $1 and ended_at is null for key share skip locked
), lane as (
    select p.pool, q.queue, p.slots as size,
        p.slots - coalesce((select sum(u.slots) from pool_use u where u.pool = p.pool), 0) as free,
        row_number() over (order by random()) as place, count(*) over () as lanes
    from claimer cross join pool p cross join unnest($2::text[]) as q (queue)
    where (p.slots is null or p.pool = any($4::text[]))
        and exists (select from ready r where r.pool = p.pool and r.queue = q.queue)
), locked as (
    select lane.pool, lane.free, l.instance_id, least(l.slots, lane.size) as slots,
        sum(least(l.slots, lane.size)) over (partition by lane.pool order by l.priority desc, l.instance_id) as used
    from lane cross join lateral (
        select r.instance_id, r.priority, r.slots
        from ready r join task_instance i on i.instance_id = r.instance_id
        where r.pool = lane.pool and r.queue = lane.queue and (lane.free is null or lane.free > 0)
        order by r.priority desc, r.instance_id
        limit $3::bigint / lane.lanes + case when lane.place <= $3::bigint % lane.lanes then 1 else 0 end
        for update of r skip locked for no key update of i skip locked) l
), taken as (
    delete from ready r using locked l
    where r.instance_id = l.instance_id and (l.free is null or l.used <= l.free)
    returning r.instance_id, r.continues, l.pool, l.slots, l.free
), used as (
    insert into pool_use (instance_id, pool, slots)
    select instance_id, pool, slots from taken where free is not null
), claimed as (
    update task_instance i
    set state = 'running', worker_id = $1, epoch = i.epoch + 1, started_at = clock_timestamp(),
        tries = case when t.continues then i.tries else i.tries + 1 end
    from taken t where i.instance_id = t.instance_id and i.state = 'queued'
    returning i.instance_id, i.run_id, i.ordinal, i.epoch, i.tries, i.tries_allowed, i.lost, t.continues
)
select c.instance_id as "instance_id!: InstanceId", c.run_id as "run_id!: RunId", c.ordinal as "ordinal!",
    c.epoch as "epoch!", c.tries as "tries!", c.tries_allowed as "tries_allowed!", c.lost as "lost!",
    c.continues as "continues!", r.dag_id as "dag_id!: DagId", r.version_id as "version_id!: VersionId",
    r.logical_date as "logical_date!",
    r.data_interval_start as "data_interval_start!", r.data_interval_end as "data_interval_end!", p.params as "params?", s.resume as "resume?",
    (select max(lane.lanes) from lane) as "lanes!"
from claimed c
join run r on r.run_id = c.run_id
left join run_params p on p.run_id = c.run_id
left join resume s on c.continues and s.instance_id = c.instance_id
