-- Makes task instances claimable that went back to queued. Lock: none but the new rows.
insert into ready (instance_id, run_id, pool, queue, priority, slots, gates, expires_at)
select q.instance_id, q.run_id, t.pool, t.queue, t.priority, t.slots, coalesce(i.gates, '{}'),
    clock_timestamp() + t.queue_timeout * interval '1 second'
from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::integer[]) as q (instance_id, run_id, version_id, ordinal)
cross join lateral (select * from task where version_id = q.version_id and ordinal = q.ordinal offset 0) t
cross join lateral (select gates from task_instance where instance_id = q.instance_id offset 0) i
on conflict (instance_id) do nothing
