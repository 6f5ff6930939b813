-- Reads the definition of a version. Lock: none.
select definition from dag_version where version_id = $1
