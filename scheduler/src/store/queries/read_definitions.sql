-- Reads the definitions of versions. Lock: none.
select version_id as "version_id: VersionId", definition from dag_version where version_id = any($1)
