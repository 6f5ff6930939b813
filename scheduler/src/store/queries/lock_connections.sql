-- Reads all connections to seal them anew. Lock: all rows, by id.
select connection_id as "connection_id: ConnectionId", connection_type, description, key_id, sealed, updated_at
from connection order by connection_id for no key update
