-- Locks a cursor's partitions in order. Lock: these rows.
select partition, next from cursor_position where cursor = $1 and partition = any($2)
order by partition for update
