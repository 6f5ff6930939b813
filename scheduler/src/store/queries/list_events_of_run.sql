-- Lists the events that made a run, newest first. Lock: none.
select e.event_id as "event_id!", e.dataset as "dataset!: DatasetName", e.at as "at!", e.dag_id as "dag_id: DagId",
    e.run_id as "run_id: RunId", e.task_id as "task_id: TaskId", e.pushed_by, e.extra as "extra!",
    array[m.run_id] as "runs!: Vec<RunId>"
from run_dataset_event m join dataset_event e on e.event_id = m.event_id
where m.run_id = $1
order by e.event_id desc limit $2
