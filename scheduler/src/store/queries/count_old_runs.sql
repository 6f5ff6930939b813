-- Counts what would go with these runs. Lock: none.
with instance as (
    select instance_id from task_instance where run_id = any($1::bigint[])
)
select (select count(*) from run where run_id = any($1::bigint[])) as "runs!",
    (select count(*) from instance) as "task_instances!",
    (select count(*) from instance join try using (instance_id)) as "tries!",
    (select count(*) from instance join log_line using (instance_id)) as "log_lines!",
    (select count(*) from instance join rendered using (instance_id)) as "rendered!",
    (select count(*) from instance join output using (instance_id)) as "outputs!",
    (select count(*) from instance join frozen using (instance_id)) as "frozen!"
