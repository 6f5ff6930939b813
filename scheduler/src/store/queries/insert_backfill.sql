-- Makes a backfill of a DAG that has none open. Lock: the DAG row, locked already.
with made as (
    insert into backfill (dag_id, from_date, to_date, reprocess, is_backwards, stops_on_failure, max_active_runs, params,
        created_by)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    returning backfill_id, dag_id
)
update dag d set open_backfill = m.backfill_id from made m where d.dag_id = m.dag_id
returning m.backfill_id as "backfill_id: BackfillId"
