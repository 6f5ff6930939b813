-- Finds a task instance by its task. Lock: none.
select i.instance_id as "instance_id: InstanceId", r.dag_id as "dag_id: DagId"
from run r join task_instance i on i.run_id = r.run_id
left join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
left join removed_task m on m.run_id = r.run_id and m.ordinal = i.ordinal
where r.run_id = $1 and coalesce(t.task_id, m.task_id) = $2 and i.map_index = $3
order by i.ordinal desc limit 1
