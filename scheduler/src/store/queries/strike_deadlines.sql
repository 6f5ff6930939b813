-- Settles deadlines whose time has come, and tells which are missed: neither the run nor the task it is about has ended. Lock: these rows with SKIP LOCKED.
with due as materialized (
    select run_id, deadline from run_deadline where state = 'pending' and due_at <= clock_timestamp() + $1::interval
    order by due_at limit 200 for update skip locked
), settled as (
    update run_deadline d
    set settled_at = clock_timestamp(),
        state = case
            when r.state = 'cancelled' then 'cancelled'
            when r.state in ('success', 'failed') then 'met'
            when d.ordinal is null then 'missed'
            when exists (select from task_instance i
                where i.run_id = d.run_id and i.ordinal = d.ordinal and i.finished_at is null) then 'missed'
            else 'met' end
    from due cross join lateral (select * from run where run_id = due.run_id offset 0) r
    where d.run_id = due.run_id and d.deadline = due.deadline
    returning d.run_id, d.deadline, d.ordinal, d.state, r.version_id
)
select run_id as "run_id: RunId", version_id as "version_id: VersionId", deadline, ordinal, state = 'missed' as "missed!"
from settled
