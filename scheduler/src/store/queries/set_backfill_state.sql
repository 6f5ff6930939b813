-- Pauses a backfill or lets it go on. Lock: the backfill; its DAG row is locked already.
update backfill set state = $2 where backfill_id = $1 and finished_at is null and state <> $2
