-- Ends workers whose lease is over. Lock: these worker rows with SKIP LOCKED; claims hold theirs FOR KEY SHARE.
with expired as (
    select worker_id from worker where ended_at is null and lease_until < clock_timestamp()
    order by worker_id for update skip locked
)
update worker w set ended_at = clock_timestamp(), running = 0 from expired e where w.worker_id = e.worker_id
returning w.worker_id as "worker_id: WorkerId", w.name
