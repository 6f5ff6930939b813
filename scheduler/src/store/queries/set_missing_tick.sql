-- Sets when a DAG runs next by itself where that was lost; what passed meanwhile passed unwatched. Lock: the DAG row, locked already.
update dag set next_logical_date = $2, next_fire_at = $3, active_since = greatest(active_since, $4)
where dag_id = $1 and next_fire_at is null
