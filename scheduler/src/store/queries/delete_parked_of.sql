-- Takes task instances out of what is parked, after their ready rows: a claim may have parked them until these were locked. Lock: the parked rows.
delete from parked where instance_id = any($1::bigint[])
