-- Lists ended executions of a task instance. Lock: none.
select h.try_number, h.epoch, coalesce(w.name, h.worker_id::text) as "worker!", h.started_at, h.finished_at,
    h.outcome as "outcome: TryOutcome", h.reason, h.hint, h.exit_code
from try h left join worker w on w.worker_id = h.worker_id
where h.instance_id = $1 order by h.epoch limit 1000
