-- Removes what refers to task instances that do not exist: $1 are those to look at. Lock: the rows deleted.
with gone as (
    select s.instance_id from unnest($1::bigint[]) as s (instance_id)
    where not exists (select from task_instance i where i.instance_id = s.instance_id)
), unready as (
    delete from ready where instance_id = any (array(select instance_id from gone)) returning instance_id
), awake as (
    delete from sleeper where instance_id = any (array(select instance_id from gone)) returning instance_id
), forgotten as (
    delete from resume where instance_id = any (array(select instance_id from gone)) returning instance_id
), free as (
    delete from pool_use where instance_id = any (array(select instance_id from gone)) returning instance_id
), passed as (
    delete from gate_use where instance_id = any (array(select instance_id from gone)) returning instance_id
), let_out as (
    delete from parked where instance_id = any (array(select instance_id from gone)) returning instance_id
)
select (select count(*) from unready) + (select count(*) from awake) + (select count(*) from forgotten)
    + (select count(*) from free) + (select count(*) from passed) + (select count(*) from let_out) as "count!"
