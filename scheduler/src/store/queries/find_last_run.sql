-- Finds the run of a DAG's latest logical date. Lock: none.
select run_id as "run_id: RunId" from run where dag_id = $1 order by logical_date desc, kind desc limit 1
