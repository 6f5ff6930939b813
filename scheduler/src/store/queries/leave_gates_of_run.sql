-- Takes a run's task instances out of the gates they had passed; returns these gates. Lock: these rows; the run is locked already.
with passed as (
    delete from gate_use where instance_id = any (array(select instance_id from task_instance where run_id = $1 and gates is not null))
    returning gate
)
select distinct gate as "gate!" from passed
