-- Ends a backfill of which nothing is left to do. Lock: the backfill and its DAG row, which is locked already.
with finished as (
    update backfill b set finished_at = clock_timestamp(), look_at = null,
        state = case when exists (
            select from backfill_date d join run r on r.run_id = d.run_id
            where d.backfill_id = b.backfill_id and d.state in ('made', 'cleared') and r.state in ('failed', 'cancelled'))
            then 'failed' else 'success' end::backfill_state
    where b.backfill_id = $1 and b.finished_at is null and b.open = 0
        and not exists (select from backfill_date d where d.backfill_id = b.backfill_id and d.state = 'waiting')
    returning b.backfill_id
)
update dag d set open_backfill = null from finished f where d.open_backfill = f.backfill_id and d.dag_id = $2
