-- Reads all variables to seal them anew. Lock: all rows, by name.
select variable_name as "variable_name: VariableName", is_secret, description, key_id, sealed, updated_at
from variable order by variable_name for no key update
