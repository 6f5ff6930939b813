-- Reads in how many seconds the next thing is due: a tick, a wake-up or a backfill that somebody was in the way of by the clock, or a note at once. Leases are watched by the heartbeat. Lock: none.
select extract(epoch from least(
        (select min(wake_at) from sleeper) - $1::interval,
        (select min(next_fire_at) from dag where next_fire_at is not null and present and not paused) - $1::interval,
        (select clock_timestamp() - interval '1 second' from nudge limit 1),
        (select min(look_at) from backfill where look_at is not null)
    ) - clock_timestamp())::double precision as "seconds"
