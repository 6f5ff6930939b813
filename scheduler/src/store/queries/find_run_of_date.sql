-- Finds the run of a logical date; the newest, if the date was run in several ways. Lock: none.
select run_id as "run_id: RunId" from run where dag_id = $1 and logical_date = $2 order by run_id desc limit 1
