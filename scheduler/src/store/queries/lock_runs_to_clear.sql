-- Locks those of these runs that are final and that nobody holds, as whoever clears or removes one does. Lock: these run rows with SKIP LOCKED, since the DAG row is locked already.
select r.run_id as "run_id: RunId", r.version_id as "version_id: VersionId",
    (select p.params from run_params p where p.run_id = r.run_id) as "params?"
from run r where r.run_id = any($1) and r.finished_at is not null
order by r.run_id for no key update of r skip locked
