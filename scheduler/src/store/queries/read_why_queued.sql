-- Reads what stands between a queued task instance and a worker. Lock: none.
select y.pool, y.queue, y.slots, y.gates, y.expires_at, p.slots as pool_slots,
    (select coalesce(sum(u.slots), 0)::bigint from pool_use u where u.pool = y.pool) as "pool_used!",
    (select count(*) from ready o where o.pool = y.pool and o.queue = y.queue and not o.parked
        and (o.priority > y.priority or o.priority = y.priority and o.instance_id < y.instance_id)) as "ahead!",
    (select count(*) from worker w where w.ended_at is null and w.lease_until > clock_timestamp() and w.stopping_at is null
        and w.slots > 0) as "workers!",
    (select count(*) from worker w where w.ended_at is null and w.lease_until > clock_timestamp() and w.stopping_at is null
        and w.slots > 0 and y.queue = any(w.queues)) as "serving!",
    (select coalesce(sum(w.slots), 0)::bigint from worker w where w.ended_at is null and w.lease_until > clock_timestamp()
        and w.stopping_at is null and w.slots > 0 and y.queue = any(w.queues)) as "serving_slots!",
    (select count(*) from run r join task_instance i on i.run_id = r.run_id and i.state = 'running'
        join worker w on w.worker_id = i.worker_id
        where r.state = 'running' and w.ended_at is null and w.lease_until > clock_timestamp() and w.stopping_at is null
            and y.queue = any(w.queues)) as "busy!"
from ready y join pool p on p.pool = y.pool
where y.instance_id = $1
