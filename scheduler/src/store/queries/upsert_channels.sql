-- Notes which channels a scheduler has in its settings. Lock: these rows, by name.
insert into notify_channel (channel, kind, target, seen_at)
select channel, kind, target, clock_timestamp() from unnest($1::text[], $2::text[], $3::text[]) as c (channel, kind, target)
order by channel
on conflict (channel) do update set kind = excluded.kind, target = excluded.target, seen_at = excluded.seen_at
