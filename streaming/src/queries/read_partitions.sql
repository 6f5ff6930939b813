-- Reads where every partition of every stream stands. Takes no lock.
select stream, topic, partition, next_offset, generation, owner, watermark, idle_since, events, dead_letters, late, dropped
from live.stream_offset
order by stream, partition
