-- Removes the note of a run or a task instance. Lock: the row.
delete from note where run_id = $1 and instance_id = $2
