-- Moves a cursor. Lock: these rows, locked already; a new partition's row is taken by its key.
insert into cursor_position (cursor, partition, next, moved_by)
select $1, m.partition, m.next, $2 from unnest($3::integer[], $4::bigint[], $5::bigint[]) as m (partition, start, next)
order by m.partition
on conflict (cursor, partition) do update
set next = excluded.next, moved_by = excluded.moved_by, moved_at = clock_timestamp()
where cursor_position.next = (select m.start from unnest($3::integer[], $4::bigint[]) as m (partition, start)
    where m.partition = excluded.partition)
