-- Locks the DAGs of runs in id order: before gates, which whoever starts runs takes after them. Lock: the DAG rows; the runs are locked already.
select dag_id from dag
where dag_id = any (array(select dag_id from run where run_id = any($1::bigint[])))
order by dag_id for no key update
