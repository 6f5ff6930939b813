-- Reads the state of a run. Lock: none.
select state as "state: RunState" from run where run_id = $1
