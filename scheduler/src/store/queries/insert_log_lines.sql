-- Appends lines to logs; lines that are there already stay. Lock: none but the new rows.
insert into log_line (instance_id, epoch, line, try_number, at, stream, message)
select * from unnest($1::bigint[], $2::integer[], $3::integer[], $4::integer[], $5::timestamptz[], $6::text[], $7::text[])
on conflict (instance_id, epoch, line) do nothing
