-- Stores what people are told of runs, with the tasks that made a failed one fail. Lock: none but the new rows.
insert into notification (dag_id, event, channel, run_id, cool_down, detail)
select r.dag_id, n.event, n.channel, r.run_id, n.cool_down * interval '1 second',
    jsonb_strip_nulls(jsonb_build_object('logical_date', r.logical_date,
        'deadline', d.name, 'due_at', d.due_at, 'task', d.task_id,
        'failed', f.tasks, 'failed_tasks', f.total))
from unnest($1::bigint[], $2::text[], $3::text[], $4::double precision[], $5::integer[])
    as n (run_id, event, channel, cool_down, deadline)
cross join lateral (select * from run where run_id = n.run_id offset 0) r
left join lateral (
    select d.name, d.due_at,
        (select t.task_id from task t where t.version_id = r.version_id and t.ordinal = d.ordinal) as task_id
    from run_deadline d where d.run_id = n.run_id and d.deadline = n.deadline offset 0) d on true
left join lateral (
    select count(*) as total,
        jsonb_agg(jsonb_strip_nulls(jsonb_build_object('task', b.task_id, 'item', nullif(b.map_index, -1),
            'try', b.tries, 'tries_allowed', b.tries_allowed, 'reason', right(y.reason, 2000), 'hint', left(y.hint, 500)))
            order by b.finished_at, b.instance_id) filter (where b.place <= 5) as tasks
    from (
        select i.instance_id, i.map_index, i.tries, i.tries_allowed, i.finished_at, i.epoch, t.task_id,
            row_number() over (order by i.finished_at, i.instance_id) as place
        from task_instance i cross join lateral (
            select task_id, allow_failure from task where version_id = r.version_id and ordinal = i.ordinal offset 0) t
        where i.run_id = n.run_id and i.state = 'failed' and not t.allow_failure) b
    left join lateral (
        select reason, hint from try where instance_id = b.instance_id and epoch = b.epoch and b.place <= 5 offset 0) y
        on true
    ) f on n.event = 'failure'
