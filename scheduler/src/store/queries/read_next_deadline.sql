-- Reads in how many seconds the next thing is due by the clock: a tick, a wake-up, the end of a run's time or of a time in the queue. Leases are watched by the heartbeat. Lock: none.
select extract(epoch from least(
        (select min(wake_at) from sleeper) - $1::interval,
        (select min(due_at) from run_deadline) - $1::interval,
        (select min(expires_at) from ready where expires_at is not null) - $1::interval,
        (select min(next_fire_at) from dag where next_fire_at is not null and present and not paused) - $1::interval
    ) - clock_timestamp())::double precision as "seconds"
