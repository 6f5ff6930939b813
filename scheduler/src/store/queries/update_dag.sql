-- Makes a version current. Lock: the DAG row, locked already.
update dag set file = $2, current_version = $3, description = $4, schedule = $5, max_active_runs = $6,
    next_logical_date = $7, next_fire_at = $8, schedule_since = $9,
    active_since = case when present then active_since else clock_timestamp() + $10::interval end,
    present = true, updated_at = clock_timestamp()
where dag_id = $1
