-- Reads what became of tasks that others look at, and what branches chose. Lock: none; the runs are locked already.
select w.run_id as "run_id!: RunId", w.ordinal as "ordinal!", i.state as "state: TaskState", o.output -> 'chosen' as "chosen?"
from unnest($1::bigint[], $2::integer[]) as w (run_id, ordinal)
-- `offset 0`: task by task, also before anything was analysed.
cross join lateral (
    select * from task_instance where run_id = w.run_id and ordinal = w.ordinal and map_index >= -1 offset 0) i
left join lateral (select output from output where instance_id = i.instance_id offset 0) o on true
