-- Ends task instances as a person or the clock decided, with history for those that run; returns how many ran, and the gates they have left. Lock: these task instances; the run, gates, and their ready, sleeper and parked rows are locked already.
with chosen as (
    select i.instance_id, i.state, i.worker_id, i.epoch, i.tries, i.started_at, c.next, c.reason
    from unnest($1::bigint[], $2::task_state[], $3::text[]) as c (instance_id, next, reason)
    cross join lateral (select * from task_instance where instance_id = c.instance_id offset 0) i
    where i.state <> c.next
), ended as (
    update task_instance i
    set state = c.next, worker_id = null, sleep_reason = null, finished_at = clock_timestamp(), reason = c.reason
    from chosen c where i.instance_id = c.instance_id and i.state = c.state and i.epoch = c.epoch
    returning i.instance_id, c.state, c.worker_id, c.epoch, c.tries, c.started_at, c.reason
), freed as (
    delete from pool_use where instance_id = any (array(select instance_id from ended))
), passed as (
    delete from gate_use where instance_id = any (array(select instance_id from ended)) returning gate
), forgotten as (
    delete from resume where instance_id = any (array(select instance_id from ended))
), history as (
    insert into try (instance_id, epoch, try_number, worker_id, started_at, outcome, reason, failure_class)
    select instance_id, epoch, tries, worker_id, started_at, $4::try_outcome, reason, $5
    from ended where state = 'running'
)
select array(select instance_id from ended) as "ended!: Vec<InstanceId>",
    (select count(*) from ended where state = 'running') as "stopped!",
    array(select distinct gate from passed) as "gates!"
