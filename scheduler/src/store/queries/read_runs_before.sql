-- Reads for each run which one of its DAG comes before it by logical date, if any; one that never started has nothing to say. Lock: none.
select r.run_id as "run_id!: RunId", r.version_id as "version_id!: VersionId", r.state as "state!: RunState",
    p.run_id as "before?: RunId", p.version_id as "version_before?: VersionId", p.state as "state_before?: RunState"
from unnest($1::bigint[]) as w (run_id)
cross join lateral (select * from run where run_id = w.run_id offset 0) r
left join lateral (
    select * from run where dag_id = r.dag_id and logical_date < r.logical_date and (started_at is not null or finished_at is null)
    order by dag_id desc, logical_date desc limit 1) p on true
