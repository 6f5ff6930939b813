-- Deletes a variable. Lock: the row.
delete from variable where variable_name = $1
