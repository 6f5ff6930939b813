-- Retires DAGs whose file is gone: no new runs, history stays; they wait for no dataset any more. Lock: these DAG rows.
with retired as (
    update dag set present = false, updated_at = clock_timestamp() where present and not dag_id = any($1)
    returning dag_id
), forgotten as (
    delete from dataset_wait where dag_id = any (array(select dag_id from retired))
), consumers as (
    delete from dataset_consumer where dag_id = any (array(select dag_id from retired))
)
select dag_id as "dag_id!: DagId" from retired
