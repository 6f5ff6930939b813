-- Adds finished runs of ten tasks each, numbered from $2 up to but without $3, for benchmarks. Lock: none but the new rows.
with made as (
    insert into run (dag_id, version_id, kind, state, logical_date, data_interval_start, data_interval_end, created_at,
        started_at, finished_at, triggered_by)
    select d.dag_id, d.current_version, 'backfill', 'success', at, at, at, at, at, at, 'bench'
    from dag d cross join lateral (
        select timestamptz '2000-01-01 00:00:00Z' + n * interval '1 second' as at
        from generate_series($2::bigint, $3::bigint - 1) as n) n
    where d.dag_id = $1
    returning run_id, created_at
), instances as (
    insert into task_instance (run_id, ordinal, tries_allowed, tries, epoch, pending, ok, state, queued_at, started_at, finished_at)
    select m.run_id, o, 1, 1, 1, 0, least(o, 1), 'success', m.created_at, m.created_at, m.created_at
    from made m cross join generate_series(0, 9) as o
    returning instance_id, started_at
)
insert into try (instance_id, epoch, try_number, worker_id, started_at, finished_at, outcome)
select instance_id, 1, 1, 0, started_at, started_at, 'success' from instances
