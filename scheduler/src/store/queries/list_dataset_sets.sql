-- Lists what DAGs wait for, all or one, and which events have come. Lock: none.
select c.dag_id as "dag_id: DagId", d.paused, v.definition -> 'datasets' as "expression?", c.dataset as "dataset: DatasetName",
    w.events as "events!", w.last_at
from dataset_consumer c join dag d on d.dag_id = c.dag_id and d.present
join dag_version v on v.version_id = d.current_version
cross join lateral (
    select count(*) as events, max(e.at) as last_at
    from dataset_wait w join dataset_event e on e.event_id = w.event_id
    where w.dag_id = c.dag_id and w.dataset = c.dataset) w
where $1::text is null or c.dag_id = $1
order by c.dag_id, c.dataset limit 5000
