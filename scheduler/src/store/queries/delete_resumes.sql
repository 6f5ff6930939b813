-- Forgets what sleeping tries left, once the try is over. Lock: the rows deleted.
delete from resume where instance_id = any($1)
