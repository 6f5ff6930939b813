-- Reads who is running behind gates that have no room. Lock: none.
select g.gate, g.slots, u.run_id as "run_id!: RunId", u.task_id as "task_id!: TaskId"
from gate g cross join lateral (
    select i.run_id, t.task_id from gate_use x join task_instance i on i.instance_id = x.instance_id
    join run r on r.run_id = i.run_id join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
    where x.gate = g.gate order by i.started_at, i.instance_id limit 20) u
where g.gate = any($1::text[]) and g.slots <= (select count(*) from gate_use x where x.gate = g.gate)
