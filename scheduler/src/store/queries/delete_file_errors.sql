-- Forgets errors of files that are good again. Lock: these rows.
delete from dag_file_error where not file = any($1)
