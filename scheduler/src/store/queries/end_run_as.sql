-- Ends a run whatever its tasks say, and says why. Lock: the run row, locked already.
update run set state = $2, reason = $3, finished_at = clock_timestamp(), started_at = coalesce(started_at, clock_timestamp())
where run_id = $1 and state in ('running', 'success', 'cancelled')
