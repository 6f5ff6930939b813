-- Notes that a scheduler still watches. Lock: the one row.
update watch set until = greatest(until, clock_timestamp() + $2::interval + $1::double precision * interval '1 second')
