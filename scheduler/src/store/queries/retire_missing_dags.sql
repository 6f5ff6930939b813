-- Retires DAGs whose file is gone: no new runs, history stays. Lock: these DAG rows.
update dag set present = false, updated_at = clock_timestamp() where present and not dag_id = any($1)
returning dag_id as "dag_id: DagId"
