-- Keeps what the templates of tries became. Lock: these rows.
insert into rendered (instance_id, try_number, rendered)
select * from unnest($1::bigint[], $2::integer[], $3::jsonb[])
on conflict (instance_id, try_number) do update set rendered = excluded.rendered
