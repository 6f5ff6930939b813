-- Reads the executions that ended workers still hold. Lock: none; the fence decides when they are settled.
select i.instance_id as "instance_id: InstanceId", i.run_id as "run_id: RunId", r.version_id as "version_id: VersionId",
    i.ordinal, i.epoch, i.worker_id as "worker_id!: WorkerId", i.tries, i.tries_allowed, i.lost,
    exists (select from resume s where s.instance_id = i.instance_id) as "continues!"
from run r join task_instance i on i.run_id = r.run_id and i.state = 'running' and i.worker_id = any($1)
where r.state = 'running'
