-- Reads which runs have these logical dates: of each the one that the schedule or a backfill made, else the newest. Lock: none.
select w.logical_date as "logical_date!", r.run_id as "run_id: RunId", r.state as "state: RunState"
from unnest($2::timestamptz[]) as w (logical_date) cross join lateral (
    select r.run_id, r.state from run r where r.dag_id = $1 and r.logical_date = w.logical_date
    order by r.kind in ('manual', 'dataset'), r.run_id desc limit 1) r
