-- Lists the deadlines that the last runs of a DAG have missed, newest first. Lock: none.
select d.run_id as "run_id: RunId", d.name, d.due_at, d.state, d.settled_at,
    (select t.task_id from task t where t.version_id = r.version_id and t.ordinal = d.ordinal) as "task_id?: TaskId"
from (select run_id, version_id from run where dag_id = $1 order by run_id desc limit 100) r
join run_deadline d on d.run_id = r.run_id
where d.state = 'missed' order by d.run_id desc, d.due_at desc limit 10
