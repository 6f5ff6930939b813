-- Takes a pool out of the lists, without a limit for whatever may still name it. Lock: the pool row.
update pool set slots = null, description = '', deleted = true where pool = $1
