-- Finds DAGs that have a schedule and no next tick. Whether there is one the schedule says. Lock: none.
select d.dag_id as "dag_id: DagId", d.current_version as "version_id!: VersionId", d.last_tick, d.schedule_since,
    clock_timestamp() as "now!"
from dag d join dag_version v on v.version_id = d.current_version
where d.next_fire_at is null and d.present and jsonb_typeof(v.definition -> 'schedule') <> 'null'
order by d.dag_id
