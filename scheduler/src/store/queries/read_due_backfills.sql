-- Reads the backfills that a finisher could not go on with, and the runs that may be next. Lock: none.
select b.backfill_id as "backfill_id: BackfillId", b.dag_id as "dag_id: DagId", array(
    select r.run_id from (
        select logical_date from backfill_date
        where backfill_id = b.backfill_id and state = 'waiting' order by position limit b.max_active_runs) d
    cross join lateral (
        select r.run_id from run r where r.dag_id = b.dag_id and r.logical_date = d.logical_date
        order by r.kind in ('manual', 'dataset'), r.run_id desc limit 1) r) as "run_ids!"
from backfill b where b.look_at <= clock_timestamp() order by b.look_at limit 20
