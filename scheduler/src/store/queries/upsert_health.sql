-- Makes the records of DAGs that tell people something, from their last runs where there are none yet, and sets by when the next success is due. Lock: these rows; the DAG rows are locked already.
insert into dag_health as h (dag_id, failing, last_success_at, no_success_for, success_due_at)
select u.dag_id, coalesce(l.state = 'failed', false), s.finished_at, u.seconds * interval '1 second',
    clock_timestamp() + $3::interval + u.seconds * interval '1 second'
from unnest($1::text[], $2::double precision[]) as u (dag_id, seconds)
left join lateral (
    select r.state from (select state from run where dag_id = u.dag_id order by run_id desc limit 100) r
    where r.state in ('success', 'failed') limit 1) l on true
left join lateral (
    select r.finished_at from (select state, finished_at from run where dag_id = u.dag_id order by run_id desc limit 100) r
    where r.state = 'success' limit 1) s on true
order by u.dag_id
on conflict (dag_id) do update
set no_success_for = excluded.no_success_for,
    overdue_since = case when excluded.no_success_for is null then null else h.overdue_since end,
    success_due_at = case
        when excluded.no_success_for is not distinct from h.no_success_for
            and (h.success_due_at is not null or h.overdue_since is not null) then h.success_due_at
        when h.overdue_since is not null then null
        else excluded.success_due_at end
