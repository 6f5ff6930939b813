-- Locks a DAG that has no next tick, to see whether its schedule has one. Lock: the DAG row.
select d.current_version as "version_id!: VersionId", d.last_tick, d.schedule_since, clock_timestamp() as "now!"
from dag d where d.dag_id = $1 and d.next_fire_at is null and d.present and d.current_version is not null
for no key update
