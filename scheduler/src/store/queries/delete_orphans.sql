-- Removes task instances that have no run, with what belongs to them. Lock: these task instances with SKIP LOCKED, and the rows deleted.
with orphan as (
    select i.instance_id from task_instance i
    where i.instance_id = any($1::bigint[]) and not exists (select from run r where r.run_id = i.run_id)
    for update skip locked
), lines as (
    delete from log_line where instance_id = any (array(select instance_id from orphan))
), tries as (
    delete from try where instance_id = any (array(select instance_id from orphan))
), templates as (
    delete from rendered where instance_id = any (array(select instance_id from orphan))
), outputs as (
    delete from output where instance_id = any (array(select instance_id from orphan))
), plans as (
    delete from frozen where instance_id = any (array(select instance_id from orphan))
), items as (
    delete from map_item where instance_id = any (array(select instance_id from orphan))
), past_outputs as (
    delete from past_output where instance_id = any (array(select instance_id from orphan))
), gone as (
    delete from task_instance where instance_id = any (array(select instance_id from orphan)) returning instance_id
)
select count(*) as "count!" from gone
