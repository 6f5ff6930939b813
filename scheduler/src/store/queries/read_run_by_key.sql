-- Reads which run has a logical date. Lock: none.
select run_id as "run_id: RunId" from run where dag_id = $1 and logical_date = $2 and kind = $3::run_kind
