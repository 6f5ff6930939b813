-- Reads what a task instance answered. Lock: none.
select output from output where instance_id = $1
