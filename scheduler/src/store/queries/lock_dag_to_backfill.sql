-- Locks a DAG for its backfills, and says which one is open. Lock: the DAG row.
select open_backfill as "open_backfill: BackfillId" from dag where dag_id = $1 for no key update
