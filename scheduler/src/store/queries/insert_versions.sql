-- Stores versions of DAGs, leaving out those whose bytes are stored already; returns the new ones. Lock: none but the new rows.
insert into dag_version (dag_id, content_hash, source, definition)
select * from unnest($1::text[], $2::text[], $3::text[], $4::jsonb[])
on conflict on constraint dag_version_hash_key do nothing
returning version_id as "version_id: VersionId"
