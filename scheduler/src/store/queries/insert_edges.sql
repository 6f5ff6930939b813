-- Stores the edges of a new version. Lock: none but the new rows.
insert into edge (version_id, upstream, downstream)
select $1, e.* from unnest($2::integer[], $3::integer[]) as e
