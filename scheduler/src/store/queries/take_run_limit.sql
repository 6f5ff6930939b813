-- Takes the deadline of a run that has come. Lock: the row; the run is locked already.
delete from run_limit where run_id = $1 and due_at <= clock_timestamp() + $2::interval
