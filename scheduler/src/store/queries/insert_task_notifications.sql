-- Stores what people are told of tries that have just been recorded. Lock: none but the new rows.
insert into notification (dag_id, event, channel, run_id, cool_down, detail)
select r.dag_id, n.event, n.channel, r.run_id, n.cool_down * interval '1 second',
    jsonb_strip_nulls(jsonb_build_object('logical_date', r.logical_date, 'task', t.task_id,
        'item', nullif(i.map_index, -1), 'try', coalesce(y.try_number, i.tries),
        'tries_allowed', i.tries_allowed, 'reason', right(y.reason, 2000), 'hint', left(y.hint, 500)))
from unnest($1::bigint[], $2::integer[], $3::text[], $4::text[], $5::double precision[])
    as n (instance_id, epoch, event, channel, cool_down)
cross join lateral (select * from task_instance where instance_id = n.instance_id offset 0) i
cross join lateral (select * from run where run_id = i.run_id offset 0) r
cross join lateral (select task_id from task where version_id = r.version_id and ordinal = i.ordinal offset 0) t
left join lateral (
    select * from try where instance_id = n.instance_id and epoch = n.epoch offset 0) y on true
