-- Takes task instances out of what may be claimed and what wakes. Lock: their ready and sleeper rows, before any task instance, as a claim does.
with unready as (
    delete from ready where instance_id = any($1::bigint[])
)
delete from sleeper where instance_id = any($1::bigint[])
