-- Reads the connections of these ids, or all of them, as they are sealed. Lock: none.
select connection_id as "connection_id: ConnectionId", connection_type, description, key_id, sealed, updated_at
from connection where $1::text[] is null or connection_id = any($1) order by connection_id
