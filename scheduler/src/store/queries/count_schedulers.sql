-- Counts living schedulers. Lock: none.
select count(*) as "count!" from worker where is_scheduler and ended_at is null and lease_until > clock_timestamp()
