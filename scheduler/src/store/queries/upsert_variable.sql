-- Makes a variable or replaces one; a description that is not given stays. Lock: the row.
insert into variable (variable_name, is_secret, description, key_id, sealed)
values ($1, $2, coalesce($3, ''), $4, $5)
on conflict (variable_name) do update set is_secret = excluded.is_secret,
    description = coalesce($3, variable.description), key_id = excluded.key_id, sealed = excluded.sealed, updated_at = now()
returning (xmax = 0) as "created!"
