-- Lists the ids of all DAGs. Lock: none.
select dag_id as "dag_id: DagId" from dag order by dag_id
