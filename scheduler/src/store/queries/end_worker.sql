-- Ends a lease in good order: its worker holds nothing any more, and had the lease until now. Lock: the worker row.
update worker w set ended_at = t.now, lease_until = greatest(w.lease_until, t.now), running = 0
from (select clock_timestamp() as now offset 0) t
where w.worker_id = $1 and w.ended_at is null
