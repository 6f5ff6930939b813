-- Deletes a connection. Lock: the row.
delete from connection where connection_id = $1
