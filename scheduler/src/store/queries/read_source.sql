-- Reads the file a version was made from. Lock: none.
select source from dag_version where version_id = $1
