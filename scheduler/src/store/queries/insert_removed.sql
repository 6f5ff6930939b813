-- Keeps which tasks the task instances belong to that the new version of their run does not have. Lock: none but the new rows.
insert into removed_task (run_id, ordinal, version_id, version_ordinal, task_id, kind)
select $1, m.ordinal, t.version_id, t.ordinal, t.task_id, t.kind
from unnest($3::integer[], $4::integer[]) as m (ordinal, version_ordinal)
join task t on t.version_id = $2 and t.ordinal = m.version_ordinal
