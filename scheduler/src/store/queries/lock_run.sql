-- Locks one run for a person's command. Lock: the run row.
select dag_id as "dag_id: DagId", version_id as "version_id: VersionId", state as "state: RunState"
from run where run_id = $1 for no key update
