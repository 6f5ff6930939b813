-- Takes DAGs whose next tick has come. Lock: these DAG rows with SKIP LOCKED.
select d.dag_id as "dag_id: DagId", d.current_version as "version_id!: VersionId", d.next_fire_at as "next_fire_at!",
    d.last_tick, d.schedule_since, greatest(d.active_since, w.since) as "watched_since!",
    clock_timestamp() + $1::interval as "now!"
from dag d cross join watch w
where d.next_fire_at <= clock_timestamp() + $1::interval and d.present and not d.paused and d.current_version is not null
order by d.next_fire_at limit 200 for no key update of d skip locked
