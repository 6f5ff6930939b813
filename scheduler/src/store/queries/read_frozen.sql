-- Reads a frozen value. Lock: none.
select value from frozen where instance_id = $1 and name = $2
