-- Notes runs in which something may run now that waited for the run before: those that follow $1, and $2 themselves. Lock: none but the new rows.
insert into nudge (run_id)
select n.run_id from unnest($1::bigint[]) as m (run_id)
cross join lateral (select * from run where run_id = m.run_id offset 0) r
cross join lateral (
    select run_id from run where dag_id = r.dag_id and logical_date > r.logical_date
    order by dag_id, logical_date limit 1) n
union
select run_id from unnest($2::bigint[]) as own (run_id)
