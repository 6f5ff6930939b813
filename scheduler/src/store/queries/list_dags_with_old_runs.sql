-- Lists DAGs whose first run was made before $1. Lock: none.
select d.dag_id as "dag_id: DagId" from dag d
where (select r.created_at from run r where r.dag_id = d.dag_id order by r.run_id limit 1) < $1
order by d.dag_id
