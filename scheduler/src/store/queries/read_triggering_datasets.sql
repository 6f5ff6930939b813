-- Reads the events that made a run, oldest first, at most the last $2 of each dataset. Lock: none.
select e.dataset as "dataset!: DatasetName", e.at as "at!", e.dag_id as "dag_id: DagId", e.run_id as "run_id: RunId",
    e.task_id as "task_id: TaskId", e.extra as "extra!"
from (
    select e.*, row_number() over (partition by e.dataset order by e.event_id desc) as place
    from run_dataset_event m join dataset_event e on e.event_id = m.event_id where m.run_id = $1) e
where e.place <= $2
order by e.event_id
