-- Takes ready rows, so that nobody claims or lets out what is being mended. Lock: these ready rows with SKIP LOCKED; their run, and gates where they matter, are locked already.
select instance_id from ready where instance_id = any($1) order by instance_id for update skip locked
