-- Lists the deadlines of a run. Lock: none.
select d.run_id as "run_id: RunId", d.name, d.due_at, d.state, d.settled_at,
    (select t.task_id from task t join run r on r.run_id = d.run_id
        where t.version_id = r.version_id and t.ordinal = d.ordinal) as "task_id?: TaskId"
from run_deadline d where d.run_id = $1 order by d.due_at, d.deadline
