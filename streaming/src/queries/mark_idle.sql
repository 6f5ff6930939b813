-- Remembers that partitions have nothing to read. Locks the rows of stream_offset.
update stream_offset as stands
set idle_since = now()
from unnest($3::integer[], $4::bigint[], $5::bigint[]) as idle (partition, generation, next_offset)
where stands.stream = $1
    and stands.topic = $2
    and stands.partition = idle.partition
    and stands.generation = idle.generation
    and stands.next_offset = idle.next_offset
    and stands.idle_since is null
