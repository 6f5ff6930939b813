-- Reads the same task in the run before by logical date, where it has neither succeeded nor was skipped. Lock: none.
select p.run_id as "run_id!: RunId", p.logical_date as "logical_date!", i.state as "state!: TaskState"
from run r cross join lateral (
    select * from run where dag_id = r.dag_id and logical_date < r.logical_date and (started_at is not null or finished_at is null)
    order by dag_id desc, logical_date desc limit 1) p
join task t on t.version_id = p.version_id and t.task_id = $2
cross join lateral (
    select * from task_instance where run_id = p.run_id and ordinal = t.ordinal and map_index >= -1 offset 0) i
where r.run_id = $1 and i.state not in ('success', 'skipped')
order by i.map_index limit 1
