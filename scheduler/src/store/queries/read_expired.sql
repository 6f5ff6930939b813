-- Reads which task instances have been queued for too long. Lock: none; each is looked at again under its run's lock.
select run_id as "run_id: RunId", instance_id as "instance_id: InstanceId" from ready
where expires_at <= clock_timestamp() + $1::interval order by expires_at limit 1000
