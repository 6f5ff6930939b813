-- Queues task instances whose time has come. Lock: sleepers and task instances, both with SKIP LOCKED.
with due as (
    select s.instance_id from sleeper s join task_instance i on i.instance_id = s.instance_id
    where s.wake_at <= clock_timestamp() + $1::interval
    order by s.wake_at limit 1000
    for update of s skip locked for no key update of i skip locked
), gone as (
    delete from sleeper s using due d where s.instance_id = d.instance_id returning s.instance_id
), woken as (
    update task_instance i set state = 'queued', sleep_reason = null, queued_at = clock_timestamp()
    from gone g where i.instance_id = g.instance_id and i.state = 'sleeping'
    returning i.instance_id, i.run_id, i.ordinal
), made_ready as (
    insert into ready (instance_id, run_id, pool, queue, priority, slots, continues)
    select w.instance_id, w.run_id, t.pool, t.queue, t.priority, t.slots,
        exists (select from resume s where s.instance_id = w.instance_id)
    from woken w join run r on r.run_id = w.run_id
    join task t on t.version_id = r.version_id and t.ordinal = w.ordinal
)
select count(*) as "count!" from woken
