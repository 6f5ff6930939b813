-- Reads by which version a run goes. Lock: none.
select version_id as "version_id: VersionId" from run where run_id = $1
