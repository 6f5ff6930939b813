-- Reads the current version of a DAG. Lock: none.
select current_version as "version_id: VersionId" from dag where dag_id = $1
