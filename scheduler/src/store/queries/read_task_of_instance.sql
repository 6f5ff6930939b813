-- Reads which task a task instance belongs to. Lock: none.
select r.version_id as "version_id: VersionId", i.ordinal, i.tries from task_instance i join run r on r.run_id = i.run_id
where i.instance_id = $1
