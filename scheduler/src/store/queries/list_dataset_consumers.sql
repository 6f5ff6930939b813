-- Lists the DAGs that wait for one of these datasets. Lock: none; whoever acts on it locks these DAGs next.
select distinct c.dag_id as "dag_id: DagId" from dataset_consumer c join dag d on d.dag_id = c.dag_id
where c.dataset = any($1::text[]) and d.present
order by 1
