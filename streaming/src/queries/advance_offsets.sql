-- Moves the offsets of a batch's partitions, guarded by generation and old offset: the caller requires as many rows as
-- partitions. Locks the rows of stream_offset; the first statement of every batch's transaction.
update stream_offset as stands
set next_offset = batch.next_offset,
    watermark = greatest(stands.watermark, batch.watermark),
    events = stands.events + batch.events,
    dead_letters = stands.dead_letters + batch.dead_letters,
    late = stands.late + batch.late,
    dropped = stands.dropped + batch.dropped,
    idle_since = case when batch.events = 0 then stands.idle_since end,
    updated_at = now()
from unnest($3::integer[], $4::bigint[], $5::bigint[], $6::bigint[], $7::timestamptz[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[])
    as batch (partition, generation, from_offset, next_offset, watermark, events, dead_letters, late, dropped)
where stands.stream = $1
    and stands.topic = $2
    and stands.partition = batch.partition
    and stands.generation = batch.generation
    and stands.next_offset = batch.from_offset
