-- Sets when a DAG runs next by itself, guarded by its old value. Lock: the DAG row, locked already.
update dag set next_logical_date = $3, next_fire_at = $4, last_logical_date = coalesce($5, last_logical_date)
where dag_id = $1 and next_fire_at is not distinct from $2
