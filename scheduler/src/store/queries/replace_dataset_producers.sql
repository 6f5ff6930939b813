-- Replaces what the tasks of these DAGs update. Lock: the rows deleted; the DAG rows are locked already.
with named as (
    select * from unnest($2::text[], $3::text[], $4::text[]) as n (dag_id, task_id, dataset)
), gone as (
    delete from dataset_producer p where p.dag_id = any($1::text[])
        and not exists (select from named n where n.dag_id = p.dag_id and n.task_id = p.task_id and n.dataset = p.dataset)
)
insert into dataset_producer (dataset, dag_id, task_id) select dataset, dag_id, task_id from named
on conflict on constraint dataset_producer_pkey do nothing
