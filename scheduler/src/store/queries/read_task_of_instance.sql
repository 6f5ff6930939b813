-- Reads which task a task instance belongs to. Lock: none.
select coalesce(m.version_id, r.version_id) as "version_id!: VersionId",
    coalesce(m.version_ordinal, i.ordinal) as "ordinal!", i.tries
from task_instance i join run r on r.run_id = i.run_id
left join removed_task m on m.run_id = i.run_id and m.ordinal = i.ordinal
where i.instance_id = $1
