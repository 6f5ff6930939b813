-- Reads in how many seconds the next thing is due by the clock: a tick, a wake-up, the end of a lease. Lock: none.
select extract(epoch from least(
        (select min(wake_at) from sleeper) - $1::interval,
        (select min(next_fire_at) from dag where next_fire_at is not null and present and not paused) - $1::interval,
        (select min(lease_until) from worker where ended_at is null)
    ) - clock_timestamp())::double precision as "seconds"
