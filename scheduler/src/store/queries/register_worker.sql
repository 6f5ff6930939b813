-- Opens the lease of a process. Lock: none but the new row.
insert into worker (name, version, queues, slots, is_scheduler, lease_until, labels)
values ($1, $2, $3, $4, $5, clock_timestamp() + $6::double precision * interval '1 second', $7)
returning worker_id as "worker_id: WorkerId"
