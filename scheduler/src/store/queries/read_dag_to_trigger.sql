-- Reads what is needed to make a run by hand. Lock: none.
select current_version as "version_id: VersionId", present, clock_timestamp() as "now!" from dag where dag_id = $1
