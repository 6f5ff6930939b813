-- Reads the next runs of a DAG after run $2, oldest first, without its last $3, and whether they were made and finished before $4. Lock: none.
select r.run_id as "run_id: RunId", r.created_at < $4 as "made_before!", coalesce(r.finished_at < $4, false) as "finished_before!"
from run r
where r.dag_id = $1 and r.run_id > $2
    and r.run_id <= (select l.run_id from run l where l.dag_id = $1 order by l.run_id desc offset $3 limit 1)
order by r.run_id limit $5
