-- Reads why a queued run has not started. Lock: none.
select d.paused, d.max_active_runs,
    array(select r.run_id from run r where r.dag_id = d.dag_id and r.state = 'running' order by r.run_id limit 20)
        as "running!: Vec<RunId>",
    (select count(*) from run r where r.dag_id = d.dag_id and r.state = 'running') as "running_count!",
    (select count(*) from run r where r.dag_id = d.dag_id and r.state = 'queued' and r.run_id < $2) as "before!"
from dag d where d.dag_id = $1
