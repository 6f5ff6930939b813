-- Appends a batch's events to the last ones of their partition and forgets the oldest. Locks that partition's one row.
insert into window_recent as kept (stream, window_name, topic, partition, seen_at, group_keys)
values ($1, $2, $3, $4, $5, $6)
on conflict (stream, window_name, topic, partition)
do update set seen_at = (kept.seen_at || excluded.seen_at)[greatest(1, cardinality(kept.seen_at || excluded.seen_at) - $7 + 1):],
    group_keys = (kept.group_keys || excluded.group_keys)[greatest(1, cardinality(kept.group_keys || excluded.group_keys) - $7 + 1):]
