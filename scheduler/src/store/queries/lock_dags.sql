-- Locks DAGs in id order, so that max_active_runs is counted by one at a time, and says which are backfilled. Lock: the DAG rows.
select dag_id, open_backfill as "open_backfill: BackfillId" from dag where dag_id = any($1) order by dag_id for no key update
