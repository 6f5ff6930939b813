-- Makes a pool; none is made when there is one of that name. Lock: none but the new row.
insert into pool (pool, slots, description) values ($1, $2, coalesce($3, '')) on conflict (pool) do nothing
