-- Reads what may be claimed behind locked gates, best first, with the room in its pool. Lock: ready rows and task instances with SKIP LOCKED; gates, and pools with a limit, are locked already.
select r.instance_id as "instance_id: InstanceId", r.pool, r.slots, r.gates,
    (select p.slots - coalesce((select sum(u.slots) from pool_use u where u.pool = p.pool), 0)::integer
        from pool p where p.pool = r.pool) as "pool_free?",
    (select p.slots from pool p where p.pool = r.pool) as "pool_size?"
from ready r join task_instance i on i.instance_id = r.instance_id
where r.queue = any($1::text[]) and r.gates <> '{}' and not r.parked and r.gates <@ $2::text[]
    and exists (select from pool p where p.pool = r.pool and (p.slots is null or p.pool = any($3::text[])) offset 0)
order by r.priority desc, r.instance_id limit $4
for update of r skip locked for no key update of i skip locked
