-- Notes ticks that made no run; those that follow the last ones that were noted are noted with them. A DAG keeps the newest 100. Lock: these rows; their DAGs are locked already.
with new as (
    select * from unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $6::integer[],
        $7::integer[])
        as n (dag_id, before, first_tick, last_tick, ticks, open_runs, max_active_runs)
), extended as (
    update skipped_tick s set last_tick = n.last_tick, ticks = s.ticks + n.ticks, open_runs = n.open_runs,
        max_active_runs = n.max_active_runs, skipped_at = clock_timestamp()
    from new n where s.dag_id = n.dag_id and s.last_tick = n.before
    returning s.dag_id
), forgotten as (
    delete from skipped_tick s using new n
    where s.dag_id = n.dag_id and s.last_tick < (
        select o.last_tick from skipped_tick o where o.dag_id = n.dag_id order by o.last_tick desc offset 98 limit 1)
)
insert into skipped_tick (dag_id, first_tick, last_tick, ticks, open_runs, max_active_runs)
select n.dag_id, n.first_tick, n.last_tick, n.ticks, n.open_runs, n.max_active_runs
from new n where n.dag_id <> all (array(select dag_id from extended))
