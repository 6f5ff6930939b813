-- Notes the slots of every running task of a pool, for one that gets a limit while tasks run. Lock: none but the new rows; nobody claims or ends an execution meanwhile.
insert into pool_use (instance_id, pool, slots)
select i.instance_id, t.pool, least(t.slots, $2)
from run r join task_instance i on i.run_id = r.run_id and i.state = 'running'
join task t on t.version_id = r.version_id and t.ordinal = i.ordinal and t.pool = $1
where r.state in ('queued', 'running')
order by i.instance_id
on conflict (instance_id) do update set slots = excluded.slots
