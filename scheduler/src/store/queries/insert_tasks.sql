-- Stores the tasks of new versions, and pools that are named for the first time. Lock: none but the new rows.
with pools as (
    insert into pool (pool) select distinct p from unnest($6::text[]) as p order by p on conflict (pool) do nothing
)
insert into task (version_id, ordinal, task_id, kind, trigger_rule, pool, queue, priority, slots, retries, allow_failure, upstream_count, runs_if_all_ok, queue_timeout)
select * from unnest($1::bigint[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::integer[],
    $9::integer[], $10::integer[], $11::boolean[], $12::integer[], $13::boolean[], $14::double precision[])
