-- Locks a DAG to publish a version, and reads what is current. Lock: the DAG row.
select d.current_version as "current_version: VersionId", d.file, d.present, v.content_hash as "content_hash?",
    d.next_fire_at, d.last_logical_date, d.schedule_since, clock_timestamp() + $2::interval as "now!"
from dag d left join dag_version v on v.version_id = d.current_version
where d.dag_id = $1 for no key update of d
