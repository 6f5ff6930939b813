-- Lists the dates of a backfill in the order in which they run. Lock: none.
select d.position, d.logical_date, d.data_interval_end, d.state as "state: DateState",
    d.run_id as "run_id: RunId", r.state as "run_state?: RunState"
from backfill_date d left join run r on r.run_id = d.run_id
where d.backfill_id = $1 and d.position > $2 order by d.position limit $3
