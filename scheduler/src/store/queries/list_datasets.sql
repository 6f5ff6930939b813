-- Lists datasets that current versions name, or one, with who updates them, who waits for them and their last event. Lock: none.
select n.dataset as "dataset!: DatasetName", p.dags as "producer_dags!: Vec<DagId>", p.tasks as "producer_tasks!: Vec<TaskId>",
    c.dags as "consumers!: Vec<DagId>", l.event_id as "event_id?", l.at as "at?", l.dag_id as "dag_id?: DagId",
    l.run_id as "run_id?: RunId", l.task_id as "task_id?: TaskId", l.pushed_by as "pushed_by?", l.extra as "extra?",
    l.runs as "runs?: Vec<RunId>"
from (
    select p.dataset from dataset_producer p join dag d on d.dag_id = p.dag_id and d.present
    union
    select c.dataset from dataset_consumer c join dag d on d.dag_id = c.dag_id and d.present
) n
cross join lateral (
    select coalesce(array_agg(p.dag_id order by p.dag_id, p.task_id), '{}') as dags,
        coalesce(array_agg(p.task_id order by p.dag_id, p.task_id), '{}') as tasks
    from dataset_producer p join dag d on d.dag_id = p.dag_id and d.present where p.dataset = n.dataset) p
cross join lateral (
    select coalesce(array_agg(c.dag_id order by c.dag_id), '{}') as dags
    from dataset_consumer c join dag d on d.dag_id = c.dag_id and d.present where c.dataset = n.dataset) c
left join lateral (
    select e.event_id, e.at, e.dag_id, e.run_id, e.task_id, e.pushed_by, e.extra,
        array(select m.run_id from run_dataset_event m where m.event_id = e.event_id order by m.run_id) as runs
    from dataset_event e where e.dataset = n.dataset order by e.event_id desc limit 1) l on true
where $1::text is null or n.dataset = $1
order by n.dataset limit 1000
