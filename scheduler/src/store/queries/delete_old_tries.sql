-- Removes the history of old runs, at most $2 rows. Lock: these rows; the runs are locked already.
delete from try where ctid = any (array(
    select x.ctid from task_instance i join try x on x.instance_id = i.instance_id
    where i.run_id = any($1) limit $2))
