-- Takes partitions: makes their rows where they are new, raises the generation where another worker had them. Locks the rows.
insert into stream_offset (stream, topic, partition, next_offset, generation, owner)
select $1, $2, found.partition, found.first_offset, 1, $3
from unnest($4::integer[], $5::bigint[]) as found (partition, first_offset)
order by found.partition
on conflict (stream, topic, partition)
do update set generation = stream_offset.generation + 1, owner = excluded.owner, updated_at = now()
returning partition, generation, next_offset, watermark
