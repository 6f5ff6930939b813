-- Reads what templates may say about runs. Lock: none.
select r.run_id as "run_id!: RunId", r.dag_id as "dag_id!: DagId", r.logical_date as "logical_date!",
    r.data_interval_start as "data_interval_start!", r.data_interval_end as "data_interval_end!",
    (select p.params from run_params p where p.run_id = r.run_id) as "params?"
from run r where r.run_id = any($1)
