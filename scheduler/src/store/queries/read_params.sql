-- Reads the params of a run. Lock: none.
select params from run_params where run_id = $1
