-- Removes old runs with their task instances and what only these refer to. Lock: the rows deleted; the runs are locked already.
with instances as (
    delete from task_instance where run_id = any($1::bigint[]) returning instance_id
), outputs as (
    delete from output where instance_id = any (array(select instance_id from instances)) returning instance_id
), plans as (
    delete from frozen where instance_id = any (array(select instance_id from instances)) returning instance_id
), past_outputs as (
    delete from past_output where instance_id = any (array(select instance_id from instances))
), resumes as (
    delete from resume where instance_id = any (array(select instance_id from instances))
), items as (
    delete from map_item where instance_id = any (array(select instance_id from instances))
), params as (
    delete from run_params where run_id = any($1::bigint[])
), sets as (
    delete from run_dataset_event where run_id = any($1::bigint[])
), deadlines as (
    delete from run_deadline where run_id = any($1::bigint[])
), nudges as (
    -- What waited for one of them waits for the run before that now, or for none.
    insert into nudge (run_id)
    select distinct n.run_id from run r
    cross join lateral (
        select run_id, state from run where dag_id = r.dag_id and logical_date > r.logical_date and run_id <> all($1::bigint[])
        order by dag_id, logical_date fetch first 1 row with ties) n
    where r.run_id = any($1::bigint[]) and n.state = 'running'
), runs as (
    delete from run where run_id = any($1::bigint[]) returning run_id
)
select (select count(*) from runs) as "runs!", (select count(*) from instances) as "task_instances!",
    (select count(*) from outputs) as "outputs!", (select count(*) from plans) as "frozen!"
