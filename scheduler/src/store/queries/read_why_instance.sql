-- Reads a task instance with what is kept about its state, for whoever asks why. Lock: none.
select i.instance_id as "instance_id: InstanceId", i.ordinal, i.state as "state: TaskState",
    i.sleep_reason as "sleep_reason: SleepReason", i.tries, i.tries_allowed, i.lost, i.pending, i.ok, i.failed,
    i.upstream_failed, i.skipped, i.started_at, i.reason, r.dag_id as "dag_id: DagId",
    r.state as "run_state: RunState", r.reason as run_reason, s.wake_at as "wake_at?", s.reason as "sleep_note?",
    w.name as "worker?", h.outcome as "last_outcome?: TryOutcome", h.reason as "last_reason?", h.hint as "last_hint?",
    h.failure_class as "last_class?", h.exit_code as "last_exit_code?", h.try_number as "last_try?",
    (select a.actor from audit a where a.run_id = r.run_id and a.action = 'cancel' order by a.audit_id desc limit 1)
        as "cancelled_by?",
    clock_timestamp() as "now!"
from run r join task_instance i on i.run_id = r.run_id
left join sleeper s on s.instance_id = i.instance_id
left join worker w on w.worker_id = i.worker_id
left join lateral (select * from try where instance_id = i.instance_id order by epoch desc limit 1) h on true
where r.run_id = $1 and i.ordinal = $2 and i.map_index = $3
