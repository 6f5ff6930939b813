-- Moves one partition behind offsets that are gone and records which. Locks the row of stream_offset.
with moved as (
    update stream_offset
    set next_offset = $6, updated_at = now()
    where stream = $1 and topic = $2 and partition = $3 and generation = $4 and next_offset = $5
    returning partition
)
insert into stream_gap (stream, topic, partition, from_offset, to_offset)
select $1, $2, moved.partition, $5, $6
from moved
