-- Lists events, newest first, of all datasets or one, before an event, with the runs they have made. Lock: none.
select e.event_id as "event_id!", e.dataset as "dataset!: DatasetName", e.at as "at!", e.dag_id as "dag_id: DagId",
    e.run_id as "run_id: RunId", e.task_id as "task_id: TaskId", e.pushed_by, e.extra as "extra!",
    array(select m.run_id from run_dataset_event m where m.event_id = e.event_id order by m.run_id) as "runs!: Vec<RunId>"
from dataset_event e
where ($1::text is null or e.dataset = $1) and ($2::bigint is null or e.event_id < $2)
order by e.event_id desc limit $3
