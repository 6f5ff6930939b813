-- Locks DAGs in id order, so that max_active_runs is counted by one at a time. Lock: the DAG rows.
select dag_id from dag where dag_id = any($1) order by dag_id for no key update
