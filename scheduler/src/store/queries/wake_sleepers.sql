-- Queues task instances whose time has come. Lock: sleepers and task instances, both with SKIP LOCKED.
with due as (
    select s.instance_id from sleeper s join task_instance i on i.instance_id = s.instance_id
    where s.wake_at <= clock_timestamp() + $1::interval
    order by s.wake_at limit 1000
    for update of s skip locked for no key update of i skip locked
), gone as (
    delete from sleeper where instance_id = any (array(select instance_id from due)) returning instance_id
), woken as (
    update task_instance set state = 'queued', sleep_reason = null, queued_at = clock_timestamp()
    where instance_id = any (array(select instance_id from gone)) and state = 'sleeping'
    returning instance_id, run_id, ordinal, gates
), made_ready as (
    insert into ready (instance_id, run_id, pool, queue, priority, slots, gates, expires_at)
    select w.instance_id, w.run_id, t.pool, t.queue, t.priority, t.slots, coalesce(w.gates, '{}'),
        clock_timestamp() + t.queue_timeout * interval '1 second'
    from woken w cross join lateral (
        select t.* from run r join task t on t.version_id = r.version_id
        where r.run_id = w.run_id and t.ordinal = w.ordinal offset 0) t
)
select count(*) as "count!" from woken
