-- Makes task instances claimable that went back to queued. Lock: none but the new rows.
insert into ready (instance_id, run_id, pool, queue, priority, slots, continues)
select q.instance_id, q.run_id, t.pool, t.queue, t.priority, t.slots,
    exists (select from resume s where s.instance_id = q.instance_id)
from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::integer[]) as q (instance_id, run_id, version_id, ordinal)
join task t on t.version_id = q.version_id and t.ordinal = q.ordinal
on conflict (instance_id) do nothing
