-- Reads from when to when the events are that wait for these DAGs, and the logical date of their last run by datasets. Lock: none; the DAG rows are locked already.
select d.dag_id as "dag_id!: DagId", min(e.at) as "first!", max(e.at) as "last!",
    (select r.logical_date from run r where r.dag_id = d.dag_id and r.kind = 'dataset'
        order by r.logical_date desc limit 1) as last_logical_date
from unnest($1::text[]) as d (dag_id)
join dataset_wait w on w.dag_id = d.dag_id join dataset_event e on e.event_id = w.event_id
group by d.dag_id
