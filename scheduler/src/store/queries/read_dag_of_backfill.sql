-- Reads whose backfill it is. Lock: none; a backfill never changes its DAG.
select dag_id as "dag_id: DagId", state as "state: BackfillState" from backfill where backfill_id = $1
