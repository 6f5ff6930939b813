-- Sets when DAGs run next by themselves, guarded by the old value. Lock: the DAG rows, locked already.
update dag d set next_logical_date = m.next_logical_date, next_fire_at = m.next_fire_at,
    last_tick = coalesce(m.last_tick, d.last_tick)
from unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[])
    as m (dag_id, fired_at, next_logical_date, next_fire_at, last_tick)
where d.dag_id = m.dag_id and d.next_fire_at is not distinct from m.fired_at
