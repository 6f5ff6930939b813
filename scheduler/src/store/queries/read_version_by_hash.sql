-- Reads which version has a content hash. Lock: none.
select version_id as "version_id: VersionId" from dag_version where dag_id = $1 and content_hash = $2
