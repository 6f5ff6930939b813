-- Hands the events that wait for DAGs to the runs they have made. Lock: the rows deleted; the DAG rows are locked already.
with taken as (
    delete from dataset_wait w using unnest($1::text[], $2::bigint[]) as r (dag_id, run_id)
    where w.dag_id = r.dag_id
    returning r.run_id, w.event_id
)
insert into run_dataset_event (run_id, event_id) select run_id, event_id from taken order by run_id, event_id
