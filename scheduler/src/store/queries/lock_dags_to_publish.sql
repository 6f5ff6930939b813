-- Locks DAGs in id order to publish versions, and reads what is current. Lock: the DAG rows.
select d.dag_id as "dag_id: DagId", d.current_version as "current_version: VersionId", d.file, d.present,
    (select v.content_hash from dag_version v where v.version_id = d.current_version) as "content_hash?",
    d.last_tick, d.schedule_since, clock_timestamp() + $2::interval as "now!"
from dag d where d.dag_id = any($1) order by d.dag_id for no key update of d
