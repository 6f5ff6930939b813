-- Lists what workers run now, longest first. Lock: none.
select i.worker_id as "worker_id!: WorkerId", i.instance_id as "instance_id: InstanceId", r.dag_id as "dag_id: DagId",
    i.run_id as "run_id: RunId", t.task_id as "task_id: TaskId", i.map_index, i.tries, i.tries_allowed,
    i.started_at, t.pool, t.queue
from run r join task_instance i on i.run_id = r.run_id and i.state = 'running'
join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
where r.state in ('queued', 'running') and ($1::bigint is null or i.worker_id = $1)
order by i.started_at, i.instance_id limit $2
