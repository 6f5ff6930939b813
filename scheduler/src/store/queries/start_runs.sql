-- Starts queued runs as far as max_active_runs allows, oldest first; runs of a backfill do not count for it. Lock: the DAG rows are locked already; queued runs, which nobody locks before their DAG.
with room as (
    select d.dag_id, d.max_active_runs - (
        select count(*) from run r where r.dag_id = d.dag_id and r.state = 'running' and r.backfill_id is null) as free
    from dag d where d.dag_id = any($1) and not d.paused
), chosen as (
    select q.run_id from room cross join lateral (
        select r.run_id from run r where r.dag_id = room.dag_id and r.state = 'queued'
        order by r.run_id limit greatest(room.free, 0) for no key update) q
)
update run r set state = 'running', started_at = clock_timestamp()
from chosen c where r.run_id = c.run_id and r.started_at is null and r.finished_at is null
returning r.run_id as "run_id: RunId", r.version_id as "version_id: VersionId", r.unfinished
