-- Adds a batch's counts to the panes of their windows. Locks the rows in the order of their key.
insert into window_count as kept
    (stream, window_name, window_start, window_end, group_key, events, dead, late, followed, followed_sum, followed_max)
select $1, added.window_name, added.window_start, added.window_end, added.group_key,
    added.events, added.dead, added.late, added.followed, added.followed_sum::numeric, added.followed_max
from unnest($2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::text[], $11::bigint[])
    as added (window_name, window_start, window_end, group_key, events, dead, late, followed, followed_sum, followed_max)
order by added.window_name, added.window_start, added.group_key
on conflict (stream, window_name, window_start, group_key)
do update set events = kept.events + excluded.events,
    dead = kept.dead + excluded.dead,
    late = kept.late + excluded.late,
    followed = kept.followed + excluded.followed,
    followed_sum = kept.followed_sum + excluded.followed_sum,
    followed_max = greatest(kept.followed_max, excluded.followed_max),
    revision = kept.revision + 1
