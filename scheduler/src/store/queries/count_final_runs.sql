-- Counts final runs of DAGs whose id begins so, for benchmarks. Lock: none.
select count(*) as "count!" from run where run_id > $2 and finished_at is not null and dag_id like $1 || '%'
