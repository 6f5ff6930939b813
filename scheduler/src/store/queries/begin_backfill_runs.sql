-- Starts runs that were just made for a backfill, or names it as the one that cleared them. Lock: the run rows, new or locked already.
update run r set backfill_id = $2, state = 'running', started_at = coalesce(r.started_at, clock_timestamp())
-- Its state would invite the planner to walk through the index of all open runs: these are queued or running.
where r.run_id = any($1) and r.finished_at is null
returning r.run_id as "run_id: RunId", r.version_id as "version_id: VersionId", r.unfinished
