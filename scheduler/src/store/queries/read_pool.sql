-- Reads the size of a pool. Lock: none; changes of pools happen one at a time.
select slots, deleted from pool where pool = $1
