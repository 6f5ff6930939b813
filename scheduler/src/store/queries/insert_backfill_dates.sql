-- Writes the dates of a backfill in the order in which they run. Lock: none but the new rows.
insert into backfill_date (backfill_id, position, logical_date, data_interval_start, data_interval_end, state, run_id)
select $1, d.place, d.logical_date, d.logical_date, d.data_interval_end, d.state, d.run_id
from unnest($2::timestamptz[], $3::timestamptz[], $4::backfill_date_state[], $5::bigint[])
    with ordinality as d (logical_date, data_interval_end, state, run_id, place)
