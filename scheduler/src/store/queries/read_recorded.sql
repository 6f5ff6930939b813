-- Reads which executions were recorded by their own worker, to resolve a commit whose answer was lost. Lock: none.
select t.instance_id as "instance_id: InstanceId"
from unnest($1::bigint[], $2::integer[], $3::bigint[]) as e (instance_id, epoch, worker_id)
join try t on t.instance_id = e.instance_id and t.epoch = e.epoch and t.worker_id = e.worker_id
where t.outcome is null or t.outcome not in ('lost', 'cancelled')
