-- Reads the lowest ordinal that a run has given to a removed task. Lock: none; the run is locked already.
select coalesce(min(ordinal), 0) as "ordinal!" from removed_task where run_id = $1
