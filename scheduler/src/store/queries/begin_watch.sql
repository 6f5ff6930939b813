-- Notes that a scheduler begins to watch; the watch is unbroken when another one's has not run out. Lock: the one row.
insert into watch (since, until)
values (clock_timestamp() + $2::interval, clock_timestamp() + $2::interval + $1::double precision * interval '1 second')
on conflict (only_row) do update
set since = case when watch.until < excluded.since then excluded.since else watch.since end,
    until = greatest(watch.until, excluded.until)
