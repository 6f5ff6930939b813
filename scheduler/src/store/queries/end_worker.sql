-- Ends a lease in good order: its worker holds nothing any more. Lock: the worker row.
update worker set ended_at = clock_timestamp(), running = 0 where worker_id = $1 and ended_at is null
