-- Reads the next dates of a backfill after position $2 with the runs that they have. Lock: none; its DAG row is locked already.
select d.position, d.logical_date, d.data_interval_start, d.data_interval_end,
    r.run_id as "run_id?: RunId", r.state as "state?: RunState"
from backfill_date d join backfill b on b.backfill_id = d.backfill_id
left join lateral (
    select r.run_id, r.state from run r where r.dag_id = b.dag_id and r.logical_date = d.logical_date
    order by r.kind in ('manual', 'dataset'), r.run_id desc limit 1) r on true
where d.backfill_id = $1 and d.state = 'waiting' and d.position > $2
order by d.position limit $3
