-- Takes task instances out of what wakes. Lock: their sleeper rows; whoever wakes one has them first.
delete from sleeper where instance_id = any($1::bigint[])
