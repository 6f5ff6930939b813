-- Keeps variables as they are sealed anew. Lock: these rows; they are locked already.
update variable v set key_id = $3, sealed = n.sealed
from unnest($1::text[], $2::bytea[]) as n (variable_name, sealed) where v.variable_name = n.variable_name
