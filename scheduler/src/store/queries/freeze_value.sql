-- Freezes a value unless one is frozen already. Lock: none but the new row.
insert into frozen (instance_id, name, value) values ($1, $2, $3) on conflict (instance_id, name) do nothing
