-- Renews a lease and says what its process should know; no row when the lease is over. Lock: the worker row.
with renewed as (
    update worker set lease_until = clock_timestamp() + $2::double precision * interval '1 second', running = $3,
        seen_at = clock_timestamp(), load_average = $6, memory_bytes = $7, cpu_cores = $8,
        stopping_at = case when $9::boolean then coalesce(stopping_at, clock_timestamp()) end
    where worker_id = $1 and ended_at is null
    returning worker_id, queues
)
select
    (exists (select from pool p
            where exists (select from ready r where r.pool = p.pool and r.queue = any(w.queues) and r.gates = '{}' offset 0))
        or exists (select from ready r where r.queue = any(w.queues) and r.gates <> '{}' and not r.parked))
        as "work_is_waiting!",
    array(select h.instance_id from unnest($4::bigint[], $5::integer[]) as h (instance_id, epoch)
        where not exists (select from task_instance i where i.instance_id = h.instance_id
            and i.epoch = h.epoch and i.worker_id = w.worker_id and i.state = 'running')) as "lost!: Vec<InstanceId>",
    -- Without its own, which it has just renewed: an idle engine then never has to ask whether a lease is over.
    (select extract(epoch from min(o.lease_until) - clock_timestamp())::double precision
        from worker o where o.ended_at is null and o.worker_id <> w.worker_id) as "next_lease_end?"
from renewed w
