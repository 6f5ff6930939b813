-- Ends a backfill: dates whose turn has not come stay as they are. Lock: the backfill, its waiting dates and its DAG row, which is locked already.
with cancelled as (
    update backfill b set state = 'cancelled', finished_at = clock_timestamp(), look_at = null
    where b.backfill_id = $1 and b.finished_at is null
    returning b.backfill_id, b.dag_id
), dates as (
    update backfill_date d set state = 'cancelled' from cancelled c
    where d.backfill_id = c.backfill_id and d.state = 'waiting'
    returning d.position
), freed as (
    update dag d set open_backfill = null from cancelled c where d.dag_id = c.dag_id and d.open_backfill = c.backfill_id
)
select count(*) as "dates!" from dates
