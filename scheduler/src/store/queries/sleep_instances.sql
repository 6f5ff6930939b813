-- Lets settled task instances sleep by the database's clock. Lock: none but the new rows.
with slept as (
    select * from unnest($1::bigint[], $2::bigint[], $3::double precision[], $4::text[], $5::jsonb[])
        as s (instance_id, run_id, wake_after, reason, resume)
), kept as (
    insert into resume (instance_id, resume)
    select instance_id, resume from slept where resume is not null
    on conflict (instance_id) do update set resume = excluded.resume
)
insert into sleeper (instance_id, run_id, wake_at, reason)
select instance_id, run_id, clock_timestamp() + wake_after * interval '1 second', reason from slept
-- A repair may have put a row there for a sleep that is over.
on conflict (instance_id) do update set run_id = excluded.run_id, wake_at = excluded.wake_at, reason = excluded.reason
