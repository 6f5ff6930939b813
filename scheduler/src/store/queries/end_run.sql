-- Makes an open run cancelled. Lock: the run row, locked already.
update run set state = 'cancelled', finished_at = clock_timestamp() where run_id = $1 and state in ('queued', 'running')
