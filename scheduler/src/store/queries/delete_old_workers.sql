-- Removes workers that ended before $1, at most $2. Lock: these rows with SKIP LOCKED.
delete from worker where worker_id = any (array(
    select worker_id from worker where ended_at < $1 order by worker_id limit $2 for update skip locked))
