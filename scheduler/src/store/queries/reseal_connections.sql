-- Keeps connections as they are sealed anew. Lock: these rows; they are locked already.
update connection c set key_id = $3, sealed = n.sealed
from unnest($1::text[], $2::bytea[]) as n (connection_id, sealed) where c.connection_id = n.connection_id
