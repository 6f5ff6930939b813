-- Asks a scheduler to go on with a backfill: somebody held the run that is next. Lock: the backfill; its DAG row is locked already.
update backfill set look_at = clock_timestamp() where backfill_id = $1 and finished_at is null
