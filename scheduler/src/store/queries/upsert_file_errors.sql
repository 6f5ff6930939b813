-- Records the errors of files as they stand now. Lock: these rows.
insert into dag_file_error (file, report, error_count)
select * from unnest($1::text[], $2::text[], $3::integer[])
on conflict (file) do update set report = excluded.report, error_count = excluded.error_count,
    since = case when dag_file_error.report = excluded.report then dag_file_error.since else now() end
