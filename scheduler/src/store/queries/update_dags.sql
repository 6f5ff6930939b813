-- Makes versions current. Lock: the DAG rows, locked already.
update dag d set file = u.file, current_version = u.version_id, description = u.description, schedule = u.schedule,
    max_active_runs = u.max_active_runs, next_logical_date = u.next_logical_date, next_fire_at = u.next_fire_at,
    schedule_since = u.schedule_since,
    active_since = case when d.present then d.active_since else clock_timestamp() + $10::interval end,
    present = true, updated_at = clock_timestamp()
from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::integer[], $7::timestamptz[],
    $8::timestamptz[], $9::timestamptz[])
    as u (dag_id, file, version_id, description, schedule, max_active_runs, next_logical_date, next_fire_at, schedule_since)
where d.dag_id = u.dag_id
