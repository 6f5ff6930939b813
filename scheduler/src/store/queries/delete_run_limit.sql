-- Takes the time limit of a run away. Lock: that row; the run is locked already.
delete from run_limit where run_id = $1
