-- Notes runs in which something may run now that waited for the run before: those that follow $1, and $2 themselves. Lock: none but the new rows.
-- Several runs may follow at one logical date, a scheduled one and one by hand. One that never started follows nobody.
insert into nudge (run_id)
select n.run_id from unnest($1::bigint[]) as m (run_id)
cross join lateral (select * from run where run_id = m.run_id offset 0) r
cross join lateral (
    select run_id from run where dag_id = r.dag_id and logical_date > r.logical_date and (started_at is not null or finished_at is null)
    order by dag_id, logical_date fetch first 1 row with ties) n
union
select run_id from unnest($2::bigint[]) as own (run_id)
