-- Notes which runs of a backfill have ended, and stops it at a failure if it wants that. Lock: the backfill and these dates; the DAG row is locked already.
with closed as (
    update backfill_date d set is_open = false
    from (select o.position, r.state from backfill_date o join run r on r.run_id = o.run_id
        where o.backfill_id = $1 and o.is_open and r.finished_at is not null) e
    where d.backfill_id = $1 and d.position = e.position
    returning e.state
), counted as (
    select count(*)::integer as ended, (count(*) filter (where state <> 'success'))::integer as failures from closed
)
update backfill b set open = b.open - c.ended, look_at = null,
    state = case when b.stops_on_failure and c.failures > 0 and b.state = 'running' then 'stopped' else b.state end
from counted c, dag d
where b.backfill_id = $1 and b.finished_at is null and d.dag_id = b.dag_id
returning b.dag_id as "dag_id: DagId", b.state as "state: BackfillState", b.reprocess as "reprocess: Reprocess",
    b.max_active_runs - b.open as "free!", b.params, b.created_by, d.paused,
    d.current_version as "version_id!: VersionId"
