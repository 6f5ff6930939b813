-- Reads the executions that ended workers still hold. Lock: none; the fence decides when they are settled.
select i.instance_id as "instance_id: InstanceId", i.run_id as "run_id: RunId", r.version_id as "version_id: VersionId",
    i.ordinal, i.epoch, i.worker_id as "worker_id!: WorkerId", i.tries, i.tries_allowed, i.lost,
    exists (select from resume s where s.instance_id = i.instance_id) as "continues!"
from run r
-- `offset 0`: run by run, also before anything was analysed.
cross join lateral (
    select * from task_instance where run_id = r.run_id and state = 'running' and worker_id = any($1) offset 0) i
where r.state = 'running'
