-- Cancels every task instance of a run that is not final, with history for those that run. Lock: these task instances; the run and its ready rows are locked already.
with open as (
    select instance_id, state, worker_id, epoch, tries, started_at from task_instance
    where run_id = $1 and state in ('waiting', 'queued', 'running', 'sleeping') and map_index >= -1
    order by instance_id for no key update
), cancelled as (
    update task_instance i set state = 'cancelled', worker_id = null, sleep_reason = null, finished_at = clock_timestamp()
    from open o where i.instance_id = o.instance_id and i.state = o.state
    returning i.instance_id
), freed as (
    delete from pool_use where instance_id = any (array(select instance_id from cancelled))
), forgotten as (
    delete from resume where instance_id = any (array(select instance_id from cancelled))
), history as (
    insert into try (instance_id, epoch, try_number, worker_id, started_at, outcome, reason, failure_class)
    select o.instance_id, o.epoch, o.tries, o.worker_id, o.started_at, 'cancelled', 'cancelled by ' || $2, 'cancelled'
    from open o where o.state = 'running'
)
select count(*) as "count!" from open where state = 'running'
