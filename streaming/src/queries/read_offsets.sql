-- Reads where the partitions of a stream stand. Takes no lock.
select partition, generation, next_offset, watermark
from stream_offset
where stream = $1 and topic = $2
