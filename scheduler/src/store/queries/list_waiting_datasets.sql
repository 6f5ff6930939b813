-- Lists for which of their datasets events wait, of those among these DAGs that may run by themselves. Lock: none; the DAG rows are locked already.
select d.dag_id as "dag_id: DagId", d.current_version as "version_id!: VersionId", c.dataset as "dataset: DatasetName"
from dag d join dataset_consumer c on c.dag_id = d.dag_id
where d.dag_id = any($1::text[]) and d.present and not d.paused and d.current_version is not null
    and exists (select from dataset_wait w where w.dag_id = d.dag_id and w.dataset = c.dataset offset 0)
order by d.dag_id
