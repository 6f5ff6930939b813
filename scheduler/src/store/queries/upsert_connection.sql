-- Makes a connection or replaces one; a description that is not given stays. Lock: the row.
insert into connection (connection_id, connection_type, description, key_id, sealed)
values ($1, $2, coalesce($3, ''), $4, $5)
on conflict (connection_id) do update set connection_type = excluded.connection_type,
    description = coalesce($3, connection.description), key_id = excluded.key_id, sealed = excluded.sealed, updated_at = now()
returning (xmax = 0) as "created!"
