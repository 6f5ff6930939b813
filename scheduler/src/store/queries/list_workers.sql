-- Lists processes that run tasks and hold a lease. Lock: none.
select worker_id as "worker_id: WorkerId", name, version, queues, slots, running, started_at, lease_until
from worker where ended_at is null and lease_until > clock_timestamp() and slots > 0 order by worker_id
