-- Lists the task instances of a run in topological order, those whose task its version does not have last. Lock: none.
select i.instance_id as "instance_id: InstanceId", i.run_id as "run_id: RunId", coalesce(t.task_id, m.task_id) as "task_id!: TaskId", i.ordinal,
    i.map_index, n.name as "item_name?", coalesce(t.kind, m.kind) as "kind!", i.state as "state: TaskState", i.sleep_reason as "sleep_reason: SleepReason",
    s.reason as "sleep_note?", s.wake_at as "wake_at?", i.tries, i.tries_allowed, i.queued_at, i.started_at,
    i.finished_at, coalesce(i.reason, l.reason) as "reason?", w.name as "worker?"
from run r join task_instance i on i.run_id = r.run_id
left join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
left join removed_task m on m.run_id = i.run_id and m.ordinal = i.ordinal
left join sleeper s on s.instance_id = i.instance_id
left join map_item n on n.instance_id = i.instance_id and i.map_index >= 0
left join worker w on w.worker_id = i.worker_id
left join lateral (
    select h.reason from try h where h.instance_id = i.instance_id and i.state not in ('success', 'waiting')
    order by h.epoch desc limit 1) l on true
where r.run_id = $1 and i.map_index >= -1 and (t.task_id is not null or m.task_id is not null)
order by i.ordinal < 0, i.ordinal, i.map_index
