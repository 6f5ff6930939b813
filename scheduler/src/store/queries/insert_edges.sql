-- Stores the edges of new versions. Lock: none but the new rows.
insert into edge (version_id, upstream, downstream) select * from unnest($1::bigint[], $2::integer[], $3::integer[])
