-- Reads before which instant things are old, given the age of $1 seconds, and before which a gate is stale. Lock: none.
select clock_timestamp() + $2::interval - $1::double precision * interval '1 second' as "old",
    clock_timestamp() + $2::interval - interval '1 hour' as "stale!"
