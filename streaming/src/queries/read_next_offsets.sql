-- Reads the next offset of each partition of a stream. Takes no lock.
select partition, next_offset
from live.stream_offset
where stream = $1 and topic = $2
