-- Lets the time without a success begin anew when a DAG goes on, and stop while it is paused. Lock: the row; the DAG row is locked already.
update dag_health set success_due_at = case when $2 then null else clock_timestamp() + no_success_for end
where dag_id = $1 and no_success_for is not null and overdue_since is null
