-- Says whether a task of a current version updates a dataset or a DAG waits for it. Lock: none.
select exists (select from dataset_producer p where p.dataset = $1)
    or exists (select from dataset_consumer c where c.dataset = $1) as "is_known!"
