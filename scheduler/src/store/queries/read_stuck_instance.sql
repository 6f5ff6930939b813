-- Finds the first task instance of an open run that neither runs nor is over: one that could run before one that waits for others. Lock: none.
select t.task_id as "task_id: TaskId", i.map_index
from run r join task_instance i on i.run_id = r.run_id
join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
where r.run_id = $1 and i.state in ('waiting', 'queued', 'sleeping')
    and (i.state <> 'waiting'
        or not exists (select from task_instance o where o.run_id = r.run_id and o.state in ('queued', 'sleeping', 'running')))
order by i.state <> 'queued', i.ordinal, i.map_index limit 1
