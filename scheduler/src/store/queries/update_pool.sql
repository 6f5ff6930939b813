-- Sets the size of a pool, and what it is for if that is given. Lock: the pool row.
update pool set slots = $2, description = coalesce($3, description), deleted = false where pool = $1
