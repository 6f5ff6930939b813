-- Stores a version of a DAG; no row when these bytes are stored already. Lock: none but the new row.
insert into dag_version (dag_id, content_hash, source, definition) values ($1, $2, $3, $4)
on conflict on constraint dag_version_hash_key do nothing
returning version_id as "version_id: VersionId"
