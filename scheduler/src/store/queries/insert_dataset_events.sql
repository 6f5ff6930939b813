-- Writes events, and counts them for the DAGs among $1 that wait for their datasets. Lock: none but the new rows; these DAG rows are locked already.
with events as (
    insert into dataset_event (dataset, at, dag_id, run_id, task_id, instance_id, pushed_by, extra)
    select e.dataset, statement_timestamp(), e.dag_id, e.run_id, e.task_id, e.instance_id, e.pushed_by, e.extra
    from unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::bigint[], $7::text[], $8::jsonb[]) with ordinality
        as e (dataset, dag_id, run_id, task_id, instance_id, pushed_by, extra, place)
    order by e.place
    returning event_id, dataset
), waits as (
    insert into dataset_wait (dag_id, dataset, event_id)
    select c.dag_id, e.dataset, e.event_id
    from events e join dataset_consumer c on c.dataset = e.dataset join dag d on d.dag_id = c.dag_id
    where c.dag_id = any($1::text[]) and d.present
)
select event_id as "event_id!" from events order by event_id
