-- Writes how executions ended, under their fence, with history and outputs; returns those that were still owned. Lock: task instances; their runs are locked already.
with ended as (
    select * from unnest($1::bigint[], $2::integer[], $3::bigint[], $4::task_state[], $5::sleep_reason[], $6::integer[],
        $7::integer[], $8::try_outcome[], $9::text[], $10::text[], $11::text[], $12::integer[], $13::jsonb[],
        $14::integer[], $15::boolean[])
        as e (instance_id, epoch, worker_id, state, sleep_reason, tries, lost, outcome, reason, hint, failure_class,
            exit_code, output, try_number, recorded)
), settled as (
    update task_instance i
    set state = e.state, worker_id = null, sleep_reason = e.sleep_reason, tries = e.tries, lost = i.lost + e.lost,
        queued_at = case when e.state = 'queued' then clock_timestamp() else i.queued_at end,
        finished_at = case when e.state in ('success', 'failed', 'skipped') then clock_timestamp() end
    from ended e
    where i.instance_id = e.instance_id and i.epoch = e.epoch and i.worker_id = e.worker_id and i.state = 'running'
    returning i.instance_id, i.started_at
), history as (
    insert into try (instance_id, epoch, try_number, worker_id, started_at, outcome, reason, hint, failure_class, exit_code)
    select e.instance_id, e.epoch, e.try_number, e.worker_id, s.started_at, e.outcome, e.reason, e.hint,
        e.failure_class, e.exit_code
    from ended e join settled s using (instance_id) where e.recorded
), outputs as (
    insert into output (instance_id, output)
    select e.instance_id, e.output from ended e join settled s using (instance_id) where e.output is not null
    on conflict (instance_id) do update set output = excluded.output
), freed as (
    delete from pool_use where instance_id = any (array(select instance_id from settled))
)
select instance_id as "instance_id!: InstanceId" from settled
