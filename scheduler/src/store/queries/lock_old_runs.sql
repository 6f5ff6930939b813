-- Takes final runs that finished before $2, with the number of their task instances; one that is being cleared is left alone. Lock: these run rows with SKIP LOCKED.
select r.run_id as "run_id: RunId", (select count(*) from task_instance i where i.run_id = r.run_id) as "instances!"
from run r where r.run_id = any($1) and r.finished_at < $2 and r.state in ('success', 'failed', 'cancelled')
order by r.run_id for update of r skip locked
