-- Locks every running run in id order, for a rebuild. Lock: the run rows.
select run_id from run where state = 'running' order by run_id for no key update
