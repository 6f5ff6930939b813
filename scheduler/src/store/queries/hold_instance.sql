-- Checks that an execution still owns its task instance and keeps it so until the transaction ends. Lock: the task instance FOR SHARE.
select instance_id from task_instance
where instance_id = $1 and epoch = $2 and worker_id = $3 and state = 'running' for share
