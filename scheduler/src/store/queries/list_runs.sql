-- Lists runs, newest first. Lock: none.
select r.run_id as "run_id: RunId", r.dag_id as "dag_id: DagId", r.version_id as "version_id: VersionId",
    r.kind as "kind: RunKind", r.state as "state: RunState", r.logical_date, r.data_interval_start, r.data_interval_end,
    r.created_at, r.started_at, r.finished_at, r.triggered_by, r.reason, p.params as "params?"
from run r left join run_params p on p.run_id = r.run_id
where ($1::text is null or r.dag_id = $1) and (cardinality($2::run_state[]) = 0 or r.state = any($2))
    and ($3::bigint is null or r.run_id < $3) and ($5::timestamptz is null or r.finished_at >= $5)
order by r.run_id desc limit $4
