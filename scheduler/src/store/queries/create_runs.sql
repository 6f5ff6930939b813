-- Makes queued runs with their task instances, leaving out those that exist; returns the new ones. Lock: none but the new rows.
with wanted as (
    select * from unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::jsonb[],
        $7::run_kind[], $8::text[])
        as w (dag_id, version_id, logical_date, data_interval_start, data_interval_end, params, kind, triggered_by)
), made as (
    insert into run (dag_id, version_id, kind, logical_date, data_interval_start, data_interval_end, unfinished, triggered_by)
    select w.dag_id, w.version_id, w.kind, w.logical_date, w.data_interval_start, w.data_interval_end,
        (select count(*) from task t where t.version_id = w.version_id), w.triggered_by
    from wanted w
    on conflict do nothing
    returning run_id, dag_id, version_id, logical_date, kind, data_interval_end, created_at
), given as (
    insert into run_params (run_id, params)
    select m.run_id, w.params from made m
    join wanted w on w.dag_id = m.dag_id and w.logical_date = m.logical_date and w.kind = m.kind
    where w.params <> '{}'
), instances as (
    insert into task_instance (run_id, ordinal, tries_allowed, pending, state)
    select m.run_id, t.ordinal, t.retries + 1, t.upstream_count, 'waiting'
    from made m join task t on t.version_id = m.version_id
    order by m.run_id, t.ordinal
), deadlines as (
    insert into run_deadline (run_id, deadline, name, ordinal, due_at)
    select m.run_id, d.deadline, d.name, d.ordinal,
        case d.origin when 'scheduled' then m.data_interval_end else m.created_at end + d.after
    from made m cross join lateral (select * from deadline where version_id = m.version_id offset 0) d
    -- Nothing says when a run should have been made that no schedule made.
    where d.origin = 'queued' or d.origin = 'scheduled' and m.kind = 'scheduled'
)
select run_id as "run_id!: RunId", dag_id as "dag_id!: DagId", logical_date as "logical_date!", kind as "kind!: RunKind"
from made
