-- Locks runs. Lock: these rows in id order.
select run_id as "run_id: RunId" from run where run_id = any($1::bigint[]) order by run_id for no key update
