-- Reads in how many seconds the next thing is due by the clock: a tick, a wake-up, the end of a run's time or of a time in the queue, a backfill that somebody was in the way of, or a note at once; what people are to be told; a message that is to be delivered. Leases are watched by the heartbeat. Lock: none.
select extract(epoch from least(
        (select min(wake_at) from sleeper) - $1::interval,
        (select min(due_at) from run_limit) - $1::interval,
        (select min(expires_at) from ready where expires_at is not null) - $1::interval,
        (select min(next_fire_at) from dag where next_fire_at is not null and present and not paused) - $1::interval,
        (select clock_timestamp() - interval '1 second' from nudge limit 1),
        (select min(look_at) from backfill where look_at is not null)
    ) - clock_timestamp())::double precision as "seconds",
    extract(epoch from least(
        (select min(due_at) from run_deadline where state = 'pending'),
        (select min(success_due_at) from dag_health where success_due_at is not null),
        (select min(gather_at) from notification where gather_at is not null)
    ) - $1::interval - clock_timestamp())::double precision as "alert_seconds",
    extract(epoch from (select min(next_at) from message where next_at is not null)
        - $1::interval - clock_timestamp())::double precision as "message_seconds"
