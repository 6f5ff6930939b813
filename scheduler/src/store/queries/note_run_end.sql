-- Notes how a run of a DAG ended, and tells how the DAG did before. Lock: the row; the DAG row is locked already.
with before as materialized (
    select dag_id, failing, overdue_since from dag_health where dag_id = $1 for no key update
)
update dag_health h
set failing = not $2,
    last_success_at = case when $2 then clock_timestamp() else h.last_success_at end,
    success_due_at = case when $2 then clock_timestamp() + h.no_success_for else h.success_due_at end,
    overdue_since = case when $2 then null else h.overdue_since end
from before where h.dag_id = before.dag_id
returning before.failing or before.overdue_since is not null as "was_in_trouble!"
