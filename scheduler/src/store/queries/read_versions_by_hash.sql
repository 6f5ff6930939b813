-- Finds versions by DAG and content. Lock: none.
select v.dag_id as "dag_id: DagId", v.version_id as "version_id: VersionId"
from unnest($1::text[], $2::text[]) as w (dag_id, content_hash)
cross join lateral (
    select dag_id, version_id from dag_version where dag_id = w.dag_id and content_hash = w.content_hash offset 0) v
