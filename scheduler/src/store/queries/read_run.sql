-- Reads one run. Lock: none.
select r.run_id as "run_id: RunId", r.dag_id as "dag_id: DagId", r.version_id as "version_id: VersionId",
    r.kind as "kind: RunKind", r.state as "state: RunState", r.logical_date, r.data_interval_start, r.data_interval_end,
    r.created_at, r.started_at, r.finished_at, r.triggered_by, r.reason, p.params as "params?"
from run r left join run_params p on p.run_id = r.run_id
where r.run_id = $1
