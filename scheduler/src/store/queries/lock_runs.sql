-- Locks runs in id order, so that everything that happens to a run happens one after the other. Lock: the run rows.
select run_id as "run_id: RunId", dag_id as "dag_id: DagId", version_id as "version_id: VersionId",
    state as "state: RunState"
from run where run_id = any($1) order by run_id for no key update
