-- Replaces what these DAGs wait for, and forgets the events that wait for them. Lock: the rows deleted; the DAG rows are locked already.
with named as (
    select * from unnest($2::text[], $3::text[]) as n (dag_id, dataset)
), forgotten as (
    delete from dataset_wait where dag_id = any($1::text[])
), gone as (
    delete from dataset_consumer c where c.dag_id = any($1::text[])
        and not exists (select from named n where n.dag_id = c.dag_id and n.dataset = c.dataset)
)
insert into dataset_consumer (dataset, dag_id) select dataset, dag_id from named
on conflict on constraint dataset_consumer_pkey do nothing
