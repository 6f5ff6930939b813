-- Reads where a cursor stands in each partition. Lock: none.
select partition, next, moved_by from cursor_position where cursor = $1 order by partition
