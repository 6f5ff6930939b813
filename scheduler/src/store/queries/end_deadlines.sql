-- Settles the pending deadlines of runs that have ended before them. Lock: these rows; the runs are locked already.
update run_deadline set state = case when run_id = any($2::bigint[]) then 'cancelled' else 'met' end,
    settled_at = clock_timestamp()
where run_id = any($1::bigint[]) and state = 'pending'
