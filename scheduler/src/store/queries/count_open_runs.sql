-- Counts the runs of DAGs that are queued or running; backfills have a limit of their own. Lock: none.
select d.dag_id as "dag_id!: DagId", (
    select count(*) from run r
    where r.dag_id = d.dag_id and r.state in ('queued', 'running') and r.backfill_id is null) as "open_runs!"
from unnest($1::text[]) as d (dag_id)
