-- Locks those of these runs that are final, waiting for whoever holds them. Lock: these run rows in id order, before the DAG row.
select r.run_id from run r where r.run_id = any($1) and r.finished_at is not null
order by r.run_id for no key update
