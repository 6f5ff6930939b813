-- Reads which runs have taken too long. Lock: none; each is looked at again under its lock.
select run_id as "run_id: RunId" from run_limit where due_at <= clock_timestamp() + $1::interval order by run_id limit 100
