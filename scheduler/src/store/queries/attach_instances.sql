-- Ends the move of a final run to another version: its task instances take their places, those of new tasks are made. Lock: the run and its task instances; the run is locked already.
with placed as (
    update task_instance set ordinal = -1 - ordinal where run_id = $1 and ordinal < 0 returning ordinal
), added as (
    insert into task_instance (run_id, ordinal, tries_allowed, pending, state)
    select $1, t.ordinal, t.retries + 1, t.upstream_count, 'waiting'
    from task t where t.version_id = $2 and not exists (select from placed p where p.ordinal = t.ordinal)
    order by t.ordinal
)
update run set version_id = $2 where run_id = $1 and state in ('success', 'failed', 'cancelled')
