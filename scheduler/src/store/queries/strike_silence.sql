-- Takes DAGs of which no run has succeeded for too long; those that are paused or gone are left alone until they come back. Lock: these rows with SKIP LOCKED.
with due as materialized (
    select dag_id from dag_health where success_due_at <= clock_timestamp() + $1::interval
    order by success_due_at limit 100 for update skip locked
)
update dag_health h
set success_due_at = null,
    overdue_since = case when d.present and not d.paused then clock_timestamp() else h.overdue_since end
from due cross join lateral (select * from dag where dag_id = due.dag_id offset 0) d
where h.dag_id = due.dag_id
returning h.dag_id as "dag_id: DagId", d.current_version as "version_id: VersionId",
    d.present and not d.paused as "overdue!"
