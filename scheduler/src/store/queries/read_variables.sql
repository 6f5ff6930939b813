-- Reads the variables of these names, or all of them, as they are sealed. Lock: none.
select variable_name as "variable_name: VariableName", is_secret, description, key_id, sealed, updated_at
from variable where $1::text[] is null or variable_name = any($1) order by variable_name
