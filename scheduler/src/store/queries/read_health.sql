-- Reads how a DAG that tells people something is doing. Lock: none.
select failing, last_success_at, success_due_at, overdue_since from dag_health where dag_id = $1
