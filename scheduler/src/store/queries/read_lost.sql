-- Reads a run's executions whose worker has ended or does not exist. Lock: none; the fence decides when they are settled.
select i.instance_id as "instance_id: InstanceId", i.run_id as "run_id: RunId", r.version_id as "version_id: VersionId",
    i.ordinal, i.epoch, i.worker_id as "worker_id!: WorkerId", i.tries, i.tries_allowed, i.lost,
    exists (select from resume s where s.instance_id = i.instance_id) as "continues!"
from run r join task_instance i on i.run_id = r.run_id and i.state = 'running'
where r.run_id = $1 and r.state = 'running'
    and not exists (select from worker w where w.worker_id = i.worker_id and w.ended_at is null)
